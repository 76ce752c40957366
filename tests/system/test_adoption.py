"""The manager goes and comes back: killed, upgraded, rebooted. Tenants do not notice."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable

from .apps import ASLEEP, Tenant, toml
from .conftest import Box

type NewTenant = Callable[..., str]

KILL_MANAGER = "systemctl kill -s KILL --kill-whom=main tenement-manager.service"


class Load:
    """Requests to tenants, one after the other in a thread of each, until it is told to stop."""

    def __init__(self, apps: list[Tenant], pause_s: float = 0.05) -> None:
        self._apps = apps
        self._pause_s = pause_s
        self._stop = threading.Event()
        self.statuses: Counter[object] = Counter()
        self._threads = [threading.Thread(target=self._run, args=(app,)) for app in apps]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, app: Tenant) -> None:
        while not self._stop.wait(self._pause_s):
            try:
                self.statuses[app.box.http(app.host).status] += 1
            except OSError as error:
                self.statuses[type(error).__name__] += 1


def test_a_killed_manager_costs_no_request_and_finds_every_tenant_again(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("stay", idle_timeout=300) + toml("doze", idle_timeout=300))
    awake = [Tenant(box, tenant("stay")) for _ in range(20)]
    asleep = Tenant(box, tenant("doze"))
    box.run(["ten", "spawn", "--no-start", asleep.name])
    box.run(["ten", "spawn", *(app.name for app in awake)])
    before = {app.name: app.show("InvocationID", "MainPID") for app in awake}
    with Load(awake) as load:
        box.wait_for(lambda: load.statuses.total() > 20, 20)
        box.run(KILL_MANAGER)
        assert box.run("systemctl is-active tenement-manager", check=False).stdout != "active\n"
        assert asleep.get().count == 1
        seen = load.statuses.total()
        box.wait_for(lambda: load.statuses.total() > seen + 60, 20)
    assert set(load.statuses) == {200}, load.statuses
    assert {app.name: app.show("InvocationID", "MainPID") for app in awake} == before
    assert {app.state() for app in awake} == {"running"}
    assert len(asleep.starts()) == 1


def test_an_app_that_was_not_ready_when_the_manager_was_killed_gets_no_request_before_it_is(
    box: Box, tenant: NewTenant
) -> None:
    box.write_config("h7", toml("tardy", env={"START_DELAY_S": 2}))
    app = Tenant(box, tenant("tardy"))
    box.run(["ten", "spawn", "--no-start", app.name])
    statuses: list[int] = []
    visitor = threading.Thread(target=lambda: statuses.append(box.http(app.host).status))
    visitor.start()
    # Its program runs, and sleeps before it listens.
    box.wait_for(lambda: app.show("ActiveState") == ["active"], 20)
    box.run(KILL_MANAGER)
    visitor.join()
    assert statuses == [200]
    assert len(app.starts()) == 1


def test_what_slept_was_armed_or_frozen_is_so_for_the_next_manager(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("cold", freeze_timeout=0.2, idle_timeout=300) + toml("ready"))
    frozen, armed = Tenant(box, tenant("cold")), Tenant(box, tenant("ready"))
    box.run(["ten", "spawn", frozen.name, armed.name])
    box.run(["ten", "stop", armed.name])
    frozen.wait("frozen")
    armed.wait("armed")
    invocations = [app.show("InvocationID") for app in (frozen, armed)]
    box.run(KILL_MANAGER)
    assert frozen.wait("frozen", "running") == "frozen"
    assert armed.state() == "armed"
    assert [app.show("InvocationID") for app in (frozen, armed)] == invocations
    assert frozen.get().count == 1
    assert armed.get().count == 1
    assert [app.show("InvocationID") for app in (frozen, armed)] == invocations


def test_units_of_nobody_are_stopped(box: Box, tenant: NewTenant) -> None:
    """A tenant that runs, and is no longer in the registry when the manager starts."""
    box.write_config("h7", toml("orphan", freeze_timeout=0.2))
    orphan, disabled = Tenant(box, tenant("orphan")), Tenant(box, tenant("orphan"))
    box.run(["ten", "spawn", orphan.name, disabled.name])
    orphan.wait("frozen")
    delete = "import sqlite3, sys; d = sqlite3.connect('/var/lib/tenement-manager/registry.db'); "
    delete += f"d.execute('DELETE FROM tenant WHERE id = ?', ('{orphan.id}',)); "
    delete += f"d.execute('UPDATE tenant SET enabled = 0 WHERE id = ?', ('{disabled.id}',)); d.commit()"
    box.run("systemctl stop tenement-manager")
    box.run(["python3", "-c", delete])
    box.run("systemctl start tenement-manager")
    box.wait_for(lambda: not orphan.processes() and not disabled.processes(), 10)
    assert box.http(orphan.host).status == 404
    assert box.http(disabled.host).status == 503


def test_every_way_to_fail_is_over_once_the_app_is_mended(box: Box, tenant: NewTenant) -> None:
    """Stop timeout and KILL, start timeout, exit status, signal: nobody has to run reset-failed."""
    common = {"backoff_base_ms": 50, "backoff_max_ms": 200, "max_restarts": 2, "stop_timeout": 0.5}
    broken = {
        "fail-stop": toml("fail-stop", **common, env={"EXIT_DELAY_S": 600}),
        "fail-start": toml("fail-start", **common, startup_timeout=0.5, env={"START_DELAY_S": 600}),
        "fail-exit": toml("fail-exit", **common, env={"EXIT_STATUS": 1}),
        "fail-signal": toml("fail-signal", **common, restart="no"),
    }
    box.write_config("h7", "".join(broken.values()))
    apps = {service: Tenant(box, tenant(service)) for service in broken}
    box.run(["ten", "spawn", *(app.name for app in apps.values())], check=False)
    box.run(["ten", "stop", apps["fail-stop"].name])
    box.run(["systemctl", "kill", "-s", "SEGV", apps["fail-signal"].unit])
    apps["fail-signal"].wait("failed", "asleep")
    for service in ("fail-start", "fail-exit"):
        apps[service].wait("failed")
    assert "SIGSEGV" in apps["fail-signal"].status()["reason"]

    box.write_config("h7", "".join(toml(service, **common) for service in broken))
    for app in apps.values():
        box.wait_for(lambda app=app: box.http(app.host).status == 200, 5)
        assert app.status()["reason"] is None
    failed = box.run("systemctl --failed --no-legend --plain").stdout
    assert "tenement" not in failed, failed


def test_a_child_that_ignores_sigterm_is_gone_after_the_stop(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("fork", stop_timeout=1, env={"STUBBORN": 1}))
    app = Tenant(box, tenant("fork"))
    box.run(["ten", "spawn", app.name])
    first = app.get()
    assert len(app.processes()) == 2
    began = time.monotonic()
    box.run(["ten", "disable", app.name])
    assert 1 <= time.monotonic() - began < 4
    assert app.processes() == []
    box.run(["ten", "enable", app.name])
    second = app.get()
    assert second.count == 1
    assert second.pid != first.pid


def test_after_a_reboot_everybody_is_as_before(box: Box, tenant: NewTenant) -> None:
    config = toml("home", idle_timeout=1) + toml("always", idle_timeout=0)
    config += toml("broken", max_restarts=1, backoff_base_ms=10, backoff_max_ms=20, env={"EXIT_STATUS": 1})
    box.write_config("h7", config)
    home = [Tenant(box, tenant("home")) for _ in range(6)]
    always, broken = Tenant(box, tenant("always")), Tenant(box, tenant("broken"))
    off = home[-1]
    box.run(["ten", "spawn", *(app.name for app in (*home, always))])
    box.run(["ten", "spawn", broken.name], check=False)
    box.run(["ten", "disable", off.name])
    box.run(["ten", "weight", home[0].name, "7"])
    mark = f"/var/lib/private/tenement/home/{home[0].id}/mark"
    box.run(f"echo kept >{mark}; chown --reference=$(dirname {mark}) {mark}")
    rows = json.loads(box.run(["ten", "ps", "--json"]).stdout)
    printed = box.run(["ten", "logs", home[0].name, "-o", "cat"]).stdout
    assert "Started " in printed

    box.reboot()

    after = {row["tenant"]: row for row in json.loads(box.run(["ten", "ps", "--json"]).stdout)}
    assert [(row["tenant"], row["weight"], row["enabled"]) for row in rows] == [
        (row["tenant"], row["weight"], row["enabled"]) for row in after.values()
    ]
    always.wait("running")
    assert off.state() == "disabled"
    assert {app.state() for app in home[:5]} <= set(ASLEEP)
    assert broken.state() in (*ASLEEP, "failed")
    assert box.http(off.host).status == 503
    assert box.http(broken.host).status == 502
    for app in (*home[:5], always):
        assert app.get().count == 1
    assert box.run(["cat", mark]).stdout == "kept\n"
    assert box.run(["ten", "logs", home[0].name, "-o", "cat"]).stdout.startswith(printed)
