"""Rollouts: every tenant of a service on another release, and what happens when that does not work."""

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Box
from .load import Load
from .versions import install

MANY = 200
FINISH_S = 60.0


@pytest.fixture
def service(box: Box) -> Iterator[str]:
    """A service with releases and no tenants; its tenants are removed afterwards."""
    name = f"rolled-{os.urandom(3).hex()}"
    install(box, name)
    yield name
    box.run(
        f'ten rollout abort {name}; names=$(ten ps -q {name}); [ -z "$names" ] || ten rm --purge -y $names',
        check=False,
        timeout_s=120,
    )


@pytest.fixture
def migrated(box: Box, service: str) -> str:
    """The same service with a pre_release command."""
    install(box, service, 'pre_release = "./migrate"')
    return service


def status(box: Box, service: str) -> dict[str, Any]:
    document = json.loads(box.run(f"ten rollout status {service} --json").stdout)
    assert isinstance(document, dict)
    return document


def answer(box: Box, tenant: str) -> str:
    service, id_ = tenant.split(":")
    return box.http(f"{id_}.{service}.localhost").body.decode()


def data(box: Box, tenant: str) -> list[str]:
    path = f"/var/lib/private/tenement/{tenant.replace(':', '/')}/migrated"
    return box.run(["cat", path], check=False).stdout.split()


def row(box: Box, tenant: str) -> dict[str, Any]:
    (found,) = json.loads(box.run(f"ten ps --json {tenant}").stdout)
    return dict(found)


def test_200_tenants_half_of_them_asleep_move_under_load_without_a_failed_request(
    box: Box, service: str
) -> None:
    box.run(f"ten rollout {service} --to r1")
    awake = [f"{service}:a{n}" for n in range(MANY // 2)]
    asleep = [f"{service}:s{n}" for n in range(MANY // 2)]
    box.run(["ten", "spawn", *awake], timeout_s=120)
    box.run(["ten", "spawn", "--no-start", *asleep])
    hosts = [f"{name.split(':')[1]}.{service}.localhost" for name in awake]
    with Load(hosts, threads=6) as load:
        box.wait_for(lambda: sum(load.answers.values()) > 100, 30)
        box.run(f"ten rollout {service} --to r2 --canary 5% --pause-after canary", timeout_s=60)
        canary = status(box, service)
        assert (canary["state"], canary["releases"]) == ("paused", {"r1": MANY - 10, "r2": 10})
        box.run(f"ten rollout resume {service}", timeout_s=120)
        moved = sum(count for text, count in load.answers.items() if text.startswith("r2"))
        box.wait_for(
            lambda: sum(n for text, n in load.answers.items() if text.startswith("r2")) > moved + 100, 30
        )
    assert not load.failures, load.failures[:5]
    assert status(box, service)["releases"] == {"r2": MANY}
    listed = json.loads(box.run(f"ten ps --json {service}").stdout)
    assert sum(each["state"] == "running" for each in listed) == MANY // 2
    assert answer(box, asleep[0]) == "r2 s0"


def test_a_rollout_goes_on_after_kill_9_of_the_manager_and_migrates_nobody_twice(
    box: Box, migrated: str
) -> None:
    tenants = [f"{migrated}:k{n}" for n in range(4)]
    box.run(f"ten rollout {migrated} --to r1")
    box.run(["ten", "spawn", *tenants])
    # So that it can be killed in the middle of this one's migration.
    box.run(f"touch /var/lib/private/tenement/{migrated}/k0/slow")
    with Load([f"k{n}.{migrated}.localhost" for n in range(4)], threads=2) as load:
        box.run(f"ten rollout {migrated} --to r2 --batch 4 --canary 4 --no-wait")
        box.wait_for(lambda: data(box, tenants[0]) == ["r1", "r2"], 20)
        box.run("systemctl kill --signal=KILL --kill-whom=main tenement-manager")
        box.wait_for(lambda: status(box, migrated)["state"] != "running", FINISH_S)
    assert status(box, migrated)["state"] == "done"
    assert not load.failures, load.failures[:5]
    assert [data(box, name) for name in tenants] == [["r1", "r2"]] * 4
    assert [answer(box, name) for name in tenants] == [f"r2 k{n}" for n in range(4)]


def test_a_request_under_way_outlives_a_manager_that_is_killed_in_the_middle_of_a_move(
    box: Box, service: str
) -> None:
    tenant = f"{service}:slow"
    box.run(f"ten rollout {service} --to r1; ten spawn {tenant}")
    bodies: list[bytes] = []
    # Longer than a manager that has just started waits for the workers to lease again.
    visitor = threading.Thread(
        target=lambda: bodies.append(box.http(f"slow.{service}.localhost", "/slow?5").body)
    )
    visitor.start()
    box.wait_for(lambda: row(box, tenant)["leases"] > 0, 10)
    box.run(f"ten rollout {service} --to r2 --no-wait")
    box.wait_for(lambda: row(box, tenant)["state"] == "draining", 10)
    box.run("systemctl kill --signal=KILL --kill-whom=main tenement-manager")
    visitor.join()
    assert bodies == [b"r1 slow"]
    box.wait_for(lambda: status(box, service)["state"] == "done", FINISH_S)
    assert answer(box, tenant) == "r2 slow"


def test_a_migration_that_fails_stops_the_rollout_and_leaves_release_and_data_as_they_were(
    box: Box, migrated: str
) -> None:
    good, bad = f"{migrated}:good", f"{migrated}:bad"
    box.run(f"ten rollout {migrated} --to r1")
    box.run(["ten", "spawn", good, bad])
    box.run(f"touch /var/lib/private/tenement/{migrated}/bad/poison")
    failed = box.run(f"ten rollout {migrated} --to r2 --batch 1", check=False)
    assert failed.returncode == 6
    assert f"{bad}: pre_release failed (last line: cannot migrate this)" in failed.stderr
    assert answer(box, bad) == "r1 bad"
    assert data(box, bad) == ["r1"]
    assert status(box, migrated)["state"] == "stopped"
    # Once it can be migrated, the same rollout is finished.
    box.run(f"rm /var/lib/private/tenement/{migrated}/bad/poison")
    box.run(f"ten rollout resume {migrated}")
    assert [answer(box, name) for name in (good, bad)] == ["r2 good", "r2 bad"]
    assert data(box, bad) == ["r1", "r2"]
    assert box.run("find /var/lib/private/tenement/.snapshots -mindepth 2").stdout == ""


def test_a_release_that_ends_at_once_stops_at_the_first_tenant_without_a_failed_request(
    box: Box, service: str
) -> None:
    box.run(f"ten rollout {service} --to r1")
    tenants = [f"{service}:h{n}" for n in range(3)]
    box.run(["ten", "spawn", *tenants])
    with Load([f"h{n}.{service}.localhost" for n in range(3)]) as load:
        failed = box.run(f"ten rollout {service} --to broken", check=False)
    assert failed.returncode == 6
    assert "last line: this release is broken" in failed.stderr
    assert not load.failures, load.failures[:5]
    found = status(box, service)
    assert (found["state"], found["counts"]["failed"], found["releases"]) == ("stopped", 1, {"r1": 3})
    assert [answer(box, name) for name in tenants] == [f"r1 h{n}" for n in range(3)]


def test_a_release_that_never_gets_healthy_is_taken_back(box: Box, service: str) -> None:
    install(box, service, startup_timeout=3)
    box.run(f"ten rollout {service} --to r1; ten spawn {service}:x")
    failed = box.run(f"ten rollout {service} --to sick", check=False)
    assert failed.returncode == 6
    assert f"{service}:x" in failed.stderr
    assert answer(box, f"{service}:x") == "r1 x"


def test_rollback_returns_every_tenant_to_its_release_and_a_pinned_one_stays(box: Box, service: str) -> None:
    first, pinned = f"{service}:first", f"{service}:pinned"
    box.run(f"ten rollout {service} --to r1")
    box.run(["ten", "spawn", first, pinned])
    box.run(f"ten rollout {pinned} --to r3")
    box.run(f"ten rollout {service} --to r2")
    assert [answer(box, name) for name in (first, pinned)] == ["r2 first", "r3 pinned"]
    box.run(f"ten rollback {service}")
    assert [answer(box, name) for name in (first, pinned)] == ["r1 first", "r3 pinned"]
    box.run(f"ten rollout unpin {pinned}; ten rollout {service} --to r2")
    assert answer(box, pinned) == "r2 pinned"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("rollout {} --to nowhere", "release nowhere cannot be used: /srv/versions/nowhere does not exist"),
        ("rollout {} --to ../r1", "may hold letters"),
        ("rollout notes --to r1", "its settings name no release"),
        ("rollout nothing --to r1", "no such service"),
        ("rollout {}:nobody --to r1", "no such tenant"),
        ("rollout {} --to r2 --canary most", "must be a number of tenants or a share"),
        ("rollback {}", "no earlier release"),
        ("rollout resume {}", "nothing to resume"),
        ("rollout status notes", "was never rolled out"),
    ],
)
def test_what_cannot_be_rolled_out_is_refused_with_one_line(
    box: Box, service: str, command: str, says: str
) -> None:
    box.run(f"ten rollout {service} --to r1")
    refused = box.run(f"ten {command.format(service)}", check=False)
    assert refused.returncode != 0
    assert says in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_one_rollout_at_a_time(box: Box, service: str) -> None:
    box.run(f"ten rollout {service} --to r1; ten spawn {service}:x {service}:y")
    box.run(f"ten rollout {service} --to r2 --pause-after canary")
    assert "is paused already" in box.run(f"ten rollout {service} --to r3", check=False).stderr
    box.run(f"ten rollout abort {service}")
    assert sorted(answer(box, f"{service}:{id_}")[:2] for id_ in "xy") == ["r1", "r2"]


def test_data_that_there_is_no_room_to_copy_stops_the_rollout(box: Box, migrated: str) -> None:
    name = f"{migrated}:big"
    box.run(f"ten rollout {migrated} --to r1; ten spawn {name}")
    directory = f"/var/lib/private/tenement/{migrated}"
    box.run(f"mkdir -p {directory}; mount -t tmpfs -o size=16m,mode=700 none {directory}/../.snapshots")
    try:
        # A sparse statement about the size is not believed: these are real blocks.
        box.run(f"head -c 40M /dev/zero >{directory}/big/blob; chown nobody:nogroup {directory}/big/blob")
        failed = box.run(f"ten rollout {migrated} --to r2", check=False)
    finally:
        box.run(f"umount {directory}/../.snapshots")
    assert failed.returncode == 6
    assert f"{name}: " in failed.stderr
    assert answer(box, name) == "r1 big"
