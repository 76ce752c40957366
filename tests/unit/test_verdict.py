"""What changes of systemd's properties mean: stories as systemd tells them."""

import signal
from typing import Any

import pytest

from tenement.lifecycle import Died, Goal, Leave, Restarted, State
from tenement.manager.verdict import Facts, judge

ONE, TWO = bytes(range(16)), bytes(range(1, 17))


def facts(invocation: str | None = ONE.hex(), **values: Any) -> Facts:
    """What is known of a unit that was last seen active as `invocation`."""
    found = Facts(invocation=invocation)
    found.update({"InvocationID": ONE, "ActiveState": "active", "SubState": "running", **values})
    return found


DEAD = {"ActiveState": "failed", "SubState": "failed", "MainPID": 0}


@pytest.mark.parametrize("state", [State.STARTING, State.RUNNING, State.FROZEN, State.ARMED])
def test_an_active_unit_is_no_news(state: State):
    assert judge(state, facts(), 10) == []


def test_the_first_look_at_an_active_unit_remembers_its_invocation():
    found = facts(invocation=None)
    assert judge(State.RUNNING, found, 10) == []
    assert found.invocation == ONE.hex()


@pytest.mark.parametrize(
    "sub", ["dead-before-auto-restart", "failed-before-auto-restart", "auto-restart", "auto-restart-queued"]
)
def test_a_unit_between_death_and_restart_comes_back_by_itself(sub: str):
    found = facts(
        ActiveState="activating", SubState=sub, Result="exit-code", ExecMainCode=1, ExecMainStatus=3
    )
    assert judge(State.RUNNING, found, 10) == [Died("exited with status 3", restarts=True)]


def test_a_failed_unit_may_be_tried_again_after_the_longest_backoff():
    found = facts(**DEAD, Result="start-limit-hit")
    (death,) = judge(State.BACKOFF, found, 10)
    assert death == Died("failed too often in a short time", restarts=False, retry_after_s=10)


def test_an_app_that_exits_by_itself_and_well_is_asleep():
    found = facts(ActiveState="inactive", SubState="dead", MainPID=0, Result="success", ExecMainCode=1)
    (death,) = judge(State.RUNNING, found, 10)
    assert death.clean and not death.restarts


def test_a_unit_on_its_way_up_is_not_dead():
    found = facts(ActiveState="inactive", SubState="dead", MainPID=4711)
    assert judge(State.STARTING, found, 10) == []


def test_a_stop_through_systemd_puts_the_tenant_to_sleep():
    found = facts(ActiveState="deactivating", SubState="stop-sigterm", MainPID=4711)
    assert judge(State.RUNNING, found, 10) == [Leave(Goal.SLEEP, "stopped through systemd")]


def test_a_crash_under_way_is_not_taken_for_a_stop():
    found = facts(ActiveState="deactivating", SubState="stop-sigterm", MainPID=0)
    assert judge(State.RUNNING, found, 10) == []


def test_a_restart_between_two_looks_is_a_death_and_a_birth():
    found = facts()
    found.update({"InvocationID": TWO})
    assert judge(State.RUNNING, found, 10) == [Died("restarted", restarts=True), Restarted()]
    assert judge(State.RUNNING, found, 10) == []


def test_a_unit_that_comes_back_from_its_backoff_is_restarted():
    assert judge(State.BACKOFF, facts(), 10) == [Restarted()]


@pytest.mark.parametrize(
    "state", [State.ASLEEP, State.QUEUED, State.DISABLED, State.FAILED, State.STOPPING, State.GONE]
)
def test_a_tenant_without_a_unit_hears_nothing_of_an_old_one(state: State):
    assert judge(state, facts(**DEAD), 10) == []


@pytest.mark.parametrize("invocation", [ONE.hex(), None])
def test_late_changes_of_the_last_start_are_not_those_of_this_one(invocation: str | None):
    found = facts(invocation=invocation, **DEAD)
    found.previous = ONE.hex()
    assert judge(State.STARTING, found, 10) == []


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"Result": "oom-kill"}, "ran out of memory"),
        ({"Result": "timeout"}, "did not stop in time"),
        ({"Result": "exit-code", "ExecMainCode": 1, "ExecMainStatus": 1}, "exited with status 1"),
        (
            {"Result": "exit-code", "ExecMainCode": 1, "ExecMainStatus": 203},
            "exited with status 203: the program cannot be run: it does not exist, or is not executable",
        ),
        ({"Result": "signal", "ExecMainCode": 2, "ExecMainStatus": signal.SIGKILL}, "killed by SIGKILL"),
        ({"Result": "signal", "ExecMainCode": 2, "ExecMainStatus": 77}, "killed by signal 77"),
        ({"Result": "success"}, "exited"),
        ({"Result": "something-new"}, "something-new"),
    ],
)
def test_the_reason_is_in_words_that_people_understand(values: dict[str, Any], reason: str):
    assert facts(**values).reason() == reason


def test_properties_of_no_interest_are_not_kept():
    found = facts(ExecMainStartTimestamp=1, UID=61234)
    assert "ExecMainStartTimestamp" not in found.values
    assert found.uid == 61234


def test_a_user_that_is_not_made_yet_is_unknown():
    assert facts(UID=2**32 - 1).uid is None
    assert facts().uid is None
