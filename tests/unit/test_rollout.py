"""The pure part of rollouts: who moves when, and how it ends."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenement.errors import Conflict, InvalidName
from tenement.names import TenantName
from tenement.rollout import ACTIVE, PHASES, Candidate, Kind, Phase, Rollout, Step, canary_count


def name(id_: str) -> TenantName:
    return TenantName("notes", id_)


def rollout(*ids: str, canary: int = 1, batch: int = 2, pause: bool = False) -> Rollout:
    """A rollout of tenants, of which those whose id begins so are awake."""
    found = Rollout("notes", Kind.ROLLOUT, "r2", "r1", batch, pause, started_at=0.0)
    found.add((Candidate(name(id_), "r1", id_.startswith("awake"), 0.0) for id_ in ids), canary)
    return found


def ids(names: list[TenantName]) -> list[str]:
    return [each.id for each in names]


def finish(found: Rollout, *, failing: str | None = None) -> list[str]:
    """Move the next batch."""
    batch = found.next_batch()
    for each in batch:
        found.move(each, Step.PREPARING)
        if each.id == failing:
            found.move(each, Step.REVERTING, "it broke")
            found.move(each, Step.FAILED, "it broke")
        else:
            found.move(each, Step.STARTING)
            found.move(each, Step.DONE)
    found.batch_ended()
    return ids(batch)


def test_tenants_that_are_awake_are_the_canary() -> None:
    found = rollout("a", "b", "awake-z", canary=1)
    assert finish(found) == ["awake-z"]
    assert finish(found) == ["a", "b"]
    assert found.phase is Phase.DONE


def test_of_those_awake_the_most_recently_used_comes_first() -> None:
    found = Rollout("notes", Kind.ROLLOUT, "r2", "r1", 1, False, 0.0)
    found.add([Candidate(name(id_), "r1", True, used) for id_, used in (("old", 1.0), ("new", 2.0))], 1)
    assert finish(found) == ["new"]


def test_it_pauses_after_the_canary_once() -> None:
    found = rollout("a", "b", "c", pause=True)
    finish(found)
    assert (found.phase, found.reason, found.next_batch()) == (Phase.PAUSED, "after the canary", [])
    found.resume()
    assert finish(found) == ["b", "c"]
    assert found.phase is Phase.DONE


def test_a_failure_stops_it_after_the_batch_and_resume_tries_that_tenant_again() -> None:
    found = rollout("a", "b", "c", "d", canary=1, batch=2)
    finish(found)
    assert finish(found, failing="b") == ["b", "c"]
    assert (found.phase, found.reason, found.next_batch()) == (Phase.STOPPED, "it broke", [])
    found.resume()
    assert finish(found) == ["b", "d"]
    assert found.phase is Phase.DONE


def test_after_an_abort_nobody_else_moves_and_nothing_can_be_resumed() -> None:
    found = rollout("a", "b")
    finish(found)
    found.abort()
    assert not found.open
    assert found.next_batch() == []
    with pytest.raises(Conflict, match="nothing to resume"):
        found.resume()
    with pytest.raises(Conflict, match="nothing to abort"):
        found.abort()


def test_a_tenant_made_meanwhile_moves_too_and_nobody_is_taken_in_twice() -> None:
    found = rollout("a")
    finish_first = found.next_batch()
    assert ids(
        found.add([Candidate(name("a"), "r1", False, 0), Candidate(name("b"), "r1", False, 0)], 0)
    ) == ["b"]
    assert ids(finish_first) == ["a"]
    assert found.stops[name("b")].place == 1


def test_a_step_that_is_not_in_the_table_is_a_fault() -> None:
    found = rollout("a")
    with pytest.raises(AssertionError, match="waiting -> starting"):
        found.move(name("a"), Step.STARTING)


def test_the_estimate_goes_by_what_was_done() -> None:
    found = rollout("a", "b", "c", batch=1)
    assert found.left_s() is None
    finish(found)
    found.worked_s = 2.0
    assert found.left_s() == 4.0
    assert found.counts() | {"done": 1, "waiting": 2} == found.counts()


@pytest.mark.parametrize(
    ("text", "total", "count"),
    [("5%", 200, 10), ("5%", 10, 1), ("0%", 10, 1), ("100%", 7, 7), ("3", 200, 3), ("9", 4, 4), ("1", 0, 0)],
)
def test_a_canary_is_a_share_or_a_number(text: str, total: int, count: int) -> None:
    assert canary_count(text, total) == count


@pytest.mark.parametrize("text", ["", "most", "101%", "-1", "5 %", "1.5"])
def test_anything_else_is_no_canary(text: str) -> None:
    with pytest.raises(InvalidName):
        canary_count(text, 10)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 4), st.booleans())
def test_it_ends_with_every_tenant_done_whatever_fails_on_the_way(
    fails: list[bool], batch: int, canary: int, pause: bool
) -> None:
    found = rollout(*(f"t{n}" for n in range(len(fails))), canary=canary, batch=batch, pause=pause)
    failing = {name(f"t{n}") for n, fail in enumerate(fails) if fail}
    for _ in range(100):
        if found.phase is Phase.DONE:
            break
        if found.phase is not Phase.RUNNING:
            found.resume()
        for each in found.next_batch():
            found.move(each, Step.PREPARING)
            if each in failing:
                failing.discard(each)
                found.move(each, Step.REVERTING)
                found.move(each, Step.FAILED, "once")
            else:
                found.move(each, Step.STARTING)
                found.move(each, Step.DONE)
        assert not found.active
        found.batch_ended()
    assert {stop.step for stop in found.stops.values()} == {Step.DONE}


def test_every_phase_is_in_the_table_and_the_ends_are_ends() -> None:
    assert set(PHASES) == set(Phase)
    assert [phase for phase, after in PHASES.items() if not after] == [Phase.ABORTED, Phase.DONE]
    assert not ACTIVE & set(itertools.chain((Step.WAITING, Step.DONE, Step.FAILED, Step.SKIPPED)))
