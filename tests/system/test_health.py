"""Tenants that are sick, and those that only look so. See also test_wake.py for starts that fail."""

import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from .apps import Tenant, toml
from .conftest import Box

BUSY = "while :; do :; done"

type NewTenant = Callable[..., str]


def test_an_app_that_knows_only_its_public_name_and_https_is_healthy(box: Box, tenant: NewTenant) -> None:
    box.write_config(
        "h7",
        toml("strict", health="/up", health_check_interval=0.2, env={"PUBLIC_SUFFIX": ".strict.localhost"}),
    )
    app = Tenant(box, tenant("strict"))
    box.run(["ten", "spawn", app.name])
    first = app.show("InvocationID")
    # Long enough for six checks; three failures would have restarted it.
    time.sleep(1.3)
    assert app.status()["health"] == "healthy"
    assert app.show("InvocationID") == first


@pytest.mark.parametrize("status", [301, 404, 500])
def test_the_status_of_the_health_path_is_the_reason_why_a_start_failed(
    box: Box, tenant: NewTenant, status: int
) -> None:
    box.write_config("h7", toml("ill", health="/up", startup_timeout=0.5, env={"UP_STATUS": status}))
    app = Tenant(box, tenant("ill"))
    refused = box.run(["ten", "spawn", app.name], check=False)
    assert refused.returncode == 6
    assert f"/up answered {status}" in refused.stderr
    assert f"/up answered {status}" in app.status()["reason"]


def test_a_tenant_that_falls_ill_is_killed_and_comes_back_by_itself(box: Box, tenant: NewTenant) -> None:
    box.write_config(
        "h7", toml("ail", health="/up", health_check_interval=0.2, backoff_base_ms=100, idle_timeout=60)
    )
    app = Tenant(box, tenant("ail"))
    box.run(["ten", "spawn", app.name])
    first = app.get()
    box.http(app.host, "/ail")
    box.wait_for(lambda: len(app.starts()) > 1 or app.show("NRestarts") == ["1"], 30)
    second = app.get()
    assert second.invocation != first.invocation
    assert second.count == 1
    assert box.run(f"journalctl -b -o cat -u tenement-manager -g '{app.name}: unhealthy'").stdout


def test_a_crash_in_the_middle_of_a_request_is_502_at_once_and_the_next_one_waits_for_the_restart(
    box: Box, tenant: NewTenant
) -> None:
    box.write_config("h7", toml("boom", backoff_base_ms=300))
    app = Tenant(box, tenant("boom"))
    box.run(["ten", "spawn", app.name])
    began = time.monotonic()
    assert box.http(app.host, "/exit?3").status == 502
    assert time.monotonic() - began < 0.5
    # Not answered from the grave, not refused: it waits for the backoff and the start.
    assert app.get().count == 1
    assert time.monotonic() - began > 0.3


def test_no_request_finds_the_moment_in_which_an_app_is_dead_and_systemd_has_not_said_so(
    box: Box, tenant: NewTenant
) -> None:
    box.write_config("h7", toml("gone", backoff_base_ms=20, max_restarts=10))
    app = Tenant(box, tenant("gone"))
    box.run(["ten", "spawn", app.name])
    with ExitStack() as load:
        for _ in range(4):
            busy = load.enter_context(subprocess.Popen(["timeout", "60", "sh", "-c", BUSY]))
            load.callback(busy.terminate)
        for _ in range(5):
            assert box.http(app.host, "/exit?3").status == 502
            assert app.get().count == 1


def test_a_request_that_may_have_arrived_is_never_sent_again(box: Box, tenant: NewTenant) -> None:
    """The app dies with the whole request read; a copy of it would be counted by the next start."""
    box.write_config("h7", toml("once", backoff_base_ms=50))
    app = Tenant(box, tenant("once"))
    box.run(["ten", "spawn", app.name])
    with ThreadPoolExecutor(5) as pool:
        slow = [pool.submit(box.http, app.host, "/slow?30", "POST", body="order") for _ in range(5)]
        box.wait_for(lambda: len(box.run("ss -Htn src 127.0.77.1 | grep -c ESTAB").stdout), 5)
        time.sleep(0.3)
        box.run(["systemctl", "kill", "-s", "KILL", app.unit])
        assert [each.result().status for each in slow] == [502] * 5
    assert app.get().count == 1
