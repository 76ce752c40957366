"""What the manager tells and counts of tenants' lives."""

import asyncio
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tenement.config import Config
from tenement.lifecycle import Lifecycle, Policy, State
from tenement.manager.disk_use import measure
from tenement.manager.events import Events
from tenement.manager.measurements import WAKE_BOUNDS_S, Measurements, ServiceCounts
from tenement.manager.supervisor import Tenant
from tenement.names import TenantName


def tenant(state: State = State.ASLEEP) -> Tenant:
    found = Tenant(TenantName("notes", "alice"), Lifecycle(Policy()))
    found.life.state = state
    return found


def describe(each: Tenant) -> dict[str, Any]:
    return {"tenant": str(each.name), "state": str(each.state)}


def lives(*states: State) -> dict[str, Any]:
    """What is counted of a tenant that goes through some states."""

    async def run() -> dict[str, Any]:
        measurements, one = Measurements(), tenant(states[0])
        for before, after in pairwise(states):
            one.life.state = after
            measurements.changed(one, before)
        found: dict[str, Any] = measurements.document(Config(), [one])["services"]["notes"]
        return found

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("states", "kind"),
    [
        ((State.ASLEEP, State.QUEUED, State.STARTING, State.RUNNING), "asleep"),
        ((State.ARMED, State.STARTING, State.RUNNING), "armed"),
        # The request came while the gate was being built.
        ((State.ARMING, State.STARTING, State.RUNNING), "armed"),
        ((State.FROZEN, State.THAWING, State.RUNNING), "frozen"),
    ],
)
def test_a_wake_counts_by_what_it_began_from(states: tuple[State, ...], kind: str) -> None:
    wakes = {each: sum(buckets) for each, (buckets, _) in lives(*states)["wakes"].items()}
    assert wakes == {"asleep": 0, "armed": 0, "frozen": 0} | {kind: 1}


def test_a_start_that_fails_is_no_wake_and_a_restart_is_none_either() -> None:
    found = lives(State.ASLEEP, State.QUEUED, State.STARTING, State.BACKOFF, State.STARTING, State.RUNNING)
    assert sum(sum(buckets) for buckets, _ in found["wakes"].values()) == 0
    assert (found["failures"], found["restarts"]) == (1, 1)


def test_a_sleep_counts_even_if_somebody_waits_already() -> None:
    assert lives(State.RUNNING, State.STOPPING, State.ASLEEP)["sleeps"]["asleep"] == 1
    assert lives(State.RUNNING, State.STOPPING, State.QUEUED)["sleeps"]["asleep"] == 1


def test_what_was_armed_does_not_fall_asleep_again() -> None:
    assert lives(State.ARMED, State.STOPPING, State.ASLEEP)["sleeps"]["asleep"] == 0
    assert lives(State.RUNNING, State.STOPPING, State.DISABLED)["sleeps"]["asleep"] == 0


def test_counts_go_on_from_those_of_the_manager_before(tmp_path: Path) -> None:
    counts = ServiceCounts(tmp_path / "counts" / "notes")
    counts.woke("armed", 0.02)
    counts.woke("asleep", 100.0)
    counts.slept("frozen")
    counts.restarted()
    counts.failed()
    # As after kill -9: nothing is closed.
    after = ServiceCounts(tmp_path / "counts" / "notes")
    assert after.document() == counts.document()
    assert after.document()["wakes"]["asleep"] == [[0] * len(WAKE_BOUNDS_S) + [1], 100.0]
    assert after.document()["wakes"]["armed"][1] == pytest.approx(0.02)
    after.failed()
    assert after.document()["failures"] == 2


@pytest.mark.parametrize("content", [b"", b"another length", b"\xff" * 416], ids=["empty", "short", "other"])
def test_counts_of_another_release_begin_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    assert ServiceCounts(path).document() == ServiceCounts(None).document()


def test_where_counts_cannot_be_kept_they_are_counted_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "notes").symlink_to(tmp_path / "elsewhere")
    counts = ServiceCounts(tmp_path / "notes")
    counts.failed()
    assert counts.document()["failures"] == 1
    assert not (tmp_path / "elsewhere").exists()


def test_a_service_that_is_configured_no_more_and_has_no_tenant_is_not_told_of() -> None:
    measurements, one = Measurements(), tenant()
    assert list(measurements.document(Config(), [one])["services"]) == ["notes"]
    assert list(measurements.document(Config(), [])["services"]) == []


def test_watchers_hear_of_changes_and_one_that_does_not_read_is_dropped() -> None:
    events, one = Events(describe), tenant()
    reader, sleeper = events.watch(), events.watch()
    heard = 0
    for _ in range(60_000):
        one.life.state = State.RUNNING
        events.changed(one, State.STARTING)
        heard += len(os.read(reader, 65536).splitlines())
    assert heard == 60_000
    os.set_blocking(sleeper, True)
    lines = b""
    while chunk := os.read(sleeper, 1 << 20):  # Ends, because the other end was closed.
        lines += chunk
    assert json.loads(lines.splitlines()[0]) == {"tenant": "notes:alice", "state": "running"}
    for fd in (reader, sleeper):
        os.close(fd)
    events.close()


def test_only_the_latest_events_are_kept() -> None:
    events = Events(describe)
    for number in range(2000):
        events.add("notes:alice", str(number), None)
    assert [each["what"] for each in events.latest()][:2] == ["1999", "1998"]
    assert len(events.latest()) == 500
    assert events.latest("notes:bob") == []


def test_measuring_follows_no_link_and_counts_a_file_with_two_names_once(tmp_path: Any) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_bytes(b"x" * 100_000)
    os.link(tmp_path / "data" / "file", tmp_path / "data" / "again")
    alone = measure(tmp_path / "data").bytes
    (tmp_path / "elsewhere").write_bytes(b"x" * 1_000_000)
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "up").symlink_to(tmp_path)
    assert 100_000 <= alone <= measure(tmp_path / "data").bytes < 200_000
    assert measure(tmp_path / "nowhere").bytes == 0
