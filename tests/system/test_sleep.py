"""Falling asleep: when it happens, when it must not, and what a request meets that comes meanwhile."""

import base64
import http.client
import json
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from .apps import ASLEEP, Tenant, toml
from .conftest import Box

type NewTenant = Callable[..., str]


def test_a_slow_download_keeps_its_tenant_awake_to_the_last_byte(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("drip", idle_timeout=2))
    app = Tenant(box, tenant("drip"))
    box.run(["ten", "spawn", app.name])
    connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=30)
    connection.request("GET", "/drip?5000&5", headers={"Host": app.host})
    body = connection.getresponse().read()
    ended = time.monotonic()
    assert body == b"".join(b"%09d\n" % number * 10 for number in range(50))
    app.wait("stopping", *ASLEEP)
    # The proxy holds the lease for a second more.
    assert 2 <= time.monotonic() - ended < 5


class WebSocket:
    """The client's end of a WebSocket."""

    def __init__(self, host: str, path: str) -> None:
        self.connection = socket.create_connection(("127.0.0.1", 80), timeout=30)
        key = base64.b64encode(os.urandom(16)).decode()
        self.connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self.stream = self.connection.makefile("rb")
        assert b" 101 " in self.stream.readline()
        while self.stream.readline().strip():
            pass

    def close(self) -> None:
        self.connection.sendall(b"\x88\x80\0\0\0\0")
        self.stream.close()
        self.connection.close()


def test_an_open_websocket_keeps_its_tenant_from_freezing_and_stopping(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("push", freeze_timeout=1, idle_timeout=3))
    app = Tenant(box, tenant("push"))
    box.run(["ten", "spawn", app.name])
    began = time.monotonic()
    socket = WebSocket(app.host, "/push?6")
    states = set()
    while time.monotonic() - began < 5.5:
        states.add(app.state())
        time.sleep(0.25)
    assert states == {"running"}
    assert socket.stream.read(8) == b"\x81\x06pushed"
    assert 6 <= time.monotonic() - began < 6.5
    socket.close()
    app.wait("frozen")
    app.wait(*ASLEEP)


def test_a_service_may_sleep_under_its_websockets_and_closes_them_first(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("under", idle_timeout=1, idle_ignores_upgrades=True))
    app = Tenant(box, tenant("under"))
    box.run(["ten", "spawn", app.name])
    socket = WebSocket(app.host, "/push?600")
    # 1001: "going away" (RFC 6455 section 7.4.1).
    frame = socket.stream.read(4)
    assert frame[0] == 0x88
    assert frame[2:4] == (1001).to_bytes(2)
    app.wait(*ASLEEP)


def test_a_request_during_the_stop_waits_for_the_start_that_follows(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("farewell", stop_timeout=10, env={"EXIT_DELAY_S": 3}))
    app = Tenant(box, tenant("farewell"))
    box.run(["ten", "spawn", app.name])
    first = app.get()
    with ThreadPoolExecutor(1) as pool:
        stop = pool.submit(box.run, ["ten", "stop", app.name])
        app.wait("stopping")
        began = time.monotonic()
        second = app.get()
        assert time.monotonic() - began > 1.5
        stop.result()
    assert second.count == 1
    assert second.invocation != first.invocation


def test_watching_tenants_neither_wakes_them_nor_keeps_them_awake(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("watched", idle_timeout=2))
    asleep, idle = Tenant(box, tenant("watched")), Tenant(box, tenant("watched"))
    box.run(["ten", "spawn", "--no-start", asleep.name])
    box.run(["ten", "spawn", idle.name])
    idle.get()
    used = time.monotonic()
    paths = ["/health", "/metrics", "/api/instances", "/"]
    paths += [
        f"/api/instances/{each.name}/{what}" for each in (asleep, idle) for what in ("health", "storage")
    ]
    while time.monotonic() - used < 4:
        for path in paths:
            box.http("localhost", path)
        rows = {row["tenant"]: row for row in json.loads(box.run(["ten", "ps", "--json"]).stdout)}
        assert rows[asleep.name]["state"] in ASLEEP
        assert asleep.status()["state"] in ASLEEP
        idle.status()
        if idle.state() in ASLEEP:
            break
    idle.wait(*ASLEEP)
    assert time.monotonic() - used < 2 + 1 + 2.5
    assert asleep.starts() == []


def test_frozen_tenants_stop_restart_and_go_like_any_other(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("ice", freeze_timeout=0.1, idle_timeout=60))
    verbs = ["stop", "restart", "disable", "rm -y", "systemctl"]
    apps = {verb: Tenant(box, tenant("ice")) for verb in verbs}
    box.run(["ten", "spawn", *(app.name for app in apps.values())])
    for app in apps.values():
        app.wait("frozen")
    assert apps["stop"].frozen()

    def end(verb: str) -> float:
        began = time.monotonic()
        if verb == "systemctl":
            box.run(["systemctl", "stop", apps[verb].unit], timeout_s=20)
            apps[verb].wait(*ASLEEP)
        else:
            box.run(f"ten {verb} {apps[verb].name}", timeout_s=20)
        return time.monotonic() - began

    with ThreadPoolExecutor(len(verbs)) as pool:
        took = dict(zip(verbs, pool.map(end, verbs), strict=True))
    assert max(took.values()) < 6, took
    apps["stop"].wait(*ASLEEP)
    apps["disable"].wait("disabled")
    for verb in ("disable", "rm -y"):
        assert apps[verb].processes() == []
    for verb in ("stop", "restart", "systemctl"):
        assert apps[verb].get().count == 1
    assert box.http(apps["disable"].host).status == 503
    assert box.http(apps["rm -y"].host).status == 404


def test_a_tenant_killed_while_frozen_wakes_like_any_other(box: Box, tenant: NewTenant) -> None:
    """Say by the OOM killer."""
    box.write_config("h7", toml("ice", freeze_timeout=0.1, idle_timeout=60, backoff_base_ms=50))
    app = Tenant(box, tenant("ice"))
    box.run(["ten", "spawn", app.name])
    first = app.get()
    app.wait("frozen")
    box.run(["systemctl", "kill", "-s", "KILL", app.unit])
    second = app.get()
    assert (second.count, second.pid != first.pid) == (1, True)


def test_a_frozen_tenant_goes_on_where_it_was(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("ice", freeze_timeout=0.1, idle_timeout=60))
    app = Tenant(box, tenant("ice"))
    box.run(["ten", "spawn", app.name])
    connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=10)
    counts = []
    for _ in range(3):
        app.wait("frozen")
        connection.request("GET", "/", headers={"Host": app.host})
        counts.append(json.loads(connection.getresponse().read())["count"])
    assert counts == [1, 2, 3]
    assert len(app.starts()) == 1


def test_beyond_max_running_the_longest_idle_sleeps_and_min_running_stays(
    box: Box, tenant: NewTenant
) -> None:
    box.write_config(
        "h7", toml("few", idle_timeout=0, max_running=2) + toml("warm", idle_timeout=0.1, min_running=1)
    )
    apps = [Tenant(box, tenant("few")) for _ in range(3)]
    for app in apps:
        box.run(["ten", "spawn", app.name])
        app.get()
        box.wait_for(lambda app=app: app.status()["leases"] == 0, 5)
    apps[0].wait(*ASLEEP)
    assert [app.state() for app in apps[1:]] == ["running", "running"]
    # Waking the first one sends the longest idle of the others to sleep, and nobody else.
    apps[0].get()
    apps[1].wait(*ASLEEP)
    assert apps[2].state() == "running"

    warm = [Tenant(box, tenant("warm")) for _ in range(2)]
    box.run(["ten", "spawn", *(app.name for app in warm)])
    for app in warm:
        app.get()
    box.wait_for(lambda: sorted(app.state() == "running" for app in warm) == [False, True], 10)
