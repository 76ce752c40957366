"""Replacing a running tenant without a pause: its stand-in serves meanwhile (`overlap`)."""

import json
import os
import threading
import time
from collections.abc import Iterator

import pytest

from .conftest import Box
from .load import Load
from .versions import install

START_S = 1.0
OVERLAP = """overlap = true
drain_timeout = 10
"""


@pytest.fixture
def service(box: Box) -> Iterator[str]:
    """A service whose app takes START_S to start, on release r1, with two tenants that run."""
    name = f"covered-{os.urandom(3).hex()}"
    install(box, name, OVERLAP, starts_s=START_S)
    box.run(f"ten rollout {name} --to r1; ten spawn {name}:a {name}:b")
    yield name
    box.run(f"ten rollout abort {name}; ten rm --purge -y $(ten ps -q {name})", check=False, timeout_s=120)


def stand_ins(box: Box, service: str) -> str:
    """What there is of stand-ins: units, ports' sockets and directories."""
    units = box.run(
        f"systemctl list-units --all --plain --no-legend 'tenement-{service}@*.next.service'"
    ).stdout
    return units + box.run("ls /run/tenement/sockets | grep next || true").stdout


def release_of(box: Box, tenant: str) -> str:
    (row,) = json.loads(box.run(f"ten status --json {tenant}").stdout)
    return str(row["release"])


def rollout_state(box: Box, service: str) -> str:
    return str(json.loads(box.run(f"ten rollout status {service} --json").stdout)["state"])


@pytest.mark.parametrize("listen", ["port", "socket", "fd"])
def test_no_request_waits_for_a_rollout_or_a_restart(box: Box, service: str, listen: str) -> None:
    install(box, service, f'{OVERLAP}listen = "{listen}"\n', starts_s=START_S)
    box.run(f"ten stop {service}:a {service}:b; ten restart {service}:a {service}:b")
    slow: list[bytes] = []
    with Load([f"{id_}.{service}.localhost" for id_ in "ab"], threads=4) as load:
        box.wait_for(lambda: sum(load.answers.values()) > 50, 30)
        thread = threading.Thread(
            target=lambda: slow.append(box.http(f"a.{service}.localhost", "/slow").body)
        )
        thread.start()
        box.run(f"ten rollout {service} --to r2 --canary 1", timeout_s=60)
        box.run(f"ten restart {service}:a", timeout_s=60)
        thread.join()
    assert not load.failures, load.failures[:5]
    assert slow == [b"r1 a"], "what was under way ended on the old release"
    assert load.longest_s < START_S, "a request waited for a start"
    assert release_of(box, f"{service}:a") == "r2"
    assert stand_ins(box, service) == ""
    assert box.http(f"a.{service}.localhost").body == b"r2 a"


def test_a_release_whose_stand_in_does_not_get_ready_touches_nobody(box: Box, service: str) -> None:
    install(box, service, OVERLAP, startup_timeout=3, starts_s=START_S)
    invocation = box.run(f"systemctl show -P InvocationID tenement-{service}@a").stdout
    with Load([f"{id_}.{service}.localhost" for id_ in "ab"]) as load:
        for release, why in (
            ("broken", "last line: this release is broken"),
            ("sick", "not ready within 3 s"),
        ):
            failed = box.run(f"ten rollout {service} --to {release}", check=False)
            assert failed.returncode == 6
            assert why in failed.stderr, failed.stderr
            box.run(f"ten rollout abort {service}")
    assert not load.failures, load.failures[:5]
    assert load.longest_s < START_S
    assert set(load.answers) == {"r1 a", "r1 b"}
    assert box.run(f"systemctl show -P InvocationID tenement-{service}@a").stdout == invocation
    assert stand_ins(box, service) == ""


@pytest.mark.parametrize("serving", [False, True], ids=["while they start", "while they serve"])
def test_a_manager_that_is_killed_in_the_middle_loses_no_request_and_leaves_no_stand_in(
    box: Box, service: str, serving: bool
) -> None:
    settings = OVERLAP.replace("10", "2") + 'listen = "fd"\n'
    install(box, service, settings, startup_timeout=4, starts_s=START_S)
    with Load([f"{id_}.{service}.localhost" for id_ in "ab"]) as load:
        box.run(f"ten rollout {service} --to r2 --batch 2 --canary 2 --no-wait")
        if serving:
            # The tenants' own units are being replaced.
            box.wait_for(lambda: {"r2 a", "r2 b"} <= set(load.answers), 20)
        else:
            box.wait_for(lambda: stand_ins(box, service).count(" running ") == 2, 20)
        box.run("systemctl kill --signal=KILL --kill-whom=main tenement-manager")
        box.wait_for(lambda: rollout_state(box, service) != "running", 60)
        box.wait_for(lambda: not stand_ins(box, service), 20)
    assert not load.failures, load.failures[:5]
    assert rollout_state(box, service) == "done"
    assert [release_of(box, f"{service}:{id_}") for id_ in "ab"] == ["r2", "r2"]


def test_restarts_in_the_middle_of_a_rollout_do_not_stop_it(box: Box, service: str) -> None:
    with Load([f"{id_}.{service}.localhost" for id_ in "ab"]) as load:
        restart = threading.Thread(target=lambda: box.run(f"ten restart {service}:a"))
        restart.start()
        box.wait_for(lambda: stand_ins(box, service), 20)
        box.run(f"ten rollout {service} --to r2 --batch 2 --canary 2", timeout_s=60)
        restart.join()
    assert not load.failures, load.failures[:5]
    assert load.longest_s < START_S
    assert box.http(f"a.{service}.localhost").body == b"r2 a"
    assert stand_ins(box, service) == ""


def test_requests_wait_for_the_tenant_when_its_stand_in_dies(box: Box, service: str) -> None:
    with Load([f"a.{service}.localhost"]) as load:
        box.run(f"ten rollout {service}:a --to r2 --no-wait")
        box.wait_for(lambda: "r2 a" in load.answers, 20)
        box.run(f"systemctl kill --signal=KILL 'tenement-{service}@a.next.service'")
        box.wait_for(lambda: rollout_state(box, service) != "running", 60)
    # Only those that were under way in it, or came before its death was known, have failed.
    assert len(load.failures) < 20, load.failures
    assert rollout_state(box, service) == "done"
    assert stand_ins(box, service) == ""


def test_data_is_deleted_when_the_stand_in_is_gone_too(box: Box, service: str) -> None:
    tenant, host = f"{service}:a", f"a.{service}.localhost"
    restart = threading.Thread(target=lambda: box.run(f"ten restart {tenant}", check=False))
    restart.start()
    box.wait_for(lambda: " running " in stand_ins(box, service), 20)
    # A little later it serves, and the tenant's own unit starts, which takes as long again.
    time.sleep(1.2 * START_S)
    slow = threading.Thread(target=lambda: box.http(host, "/slow?3"))
    slow.start()
    time.sleep(0.3)
    box.run(f"ten rm --purge -y {tenant}", timeout_s=60)
    assert stand_ins(box, service) == ""
    assert not (box.root / "var/lib/private/tenement" / service / "a").exists()
    restart.join()
    slow.join()
