"""The manager's interface over a real bus: a dbus-daemon of the test's own, and a manager made for the
test.
"""

# ruff: noqa: F821 - annotations of D-Bus methods are signatures

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop
from dbus_fast import DBusError, Message, MessageType, RequestNameReply
from dbus_fast.aio import MessageBus
from dbus_fast.service import ServiceInterface, method, signal

from tenement.errors import NotFound, Unreachable
from tenement.proxy.bus import INTERFACE, NAME, PATH, ManagerBus
from tenement.proxy.document import Change
from tests.unit.proxy.harness import eventually

pytestmark = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="needs dbus-daemon")

CONFIG = """<busconfig><type>session</type><listen>unix:path={path}</listen>
<policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy></busconfig>"""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    config = tmp_path / "bus.conf"
    config.write_text(CONFIG.format(path=tmp_path / "bus"))
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert daemon.stdout is not None
    try:
        yield daemon.stdout.readline().strip()
    finally:
        daemon.terminate()
        daemon.wait(timeout=5)
        daemon.stdout.close()


class Manager(ServiceInterface):
    def __init__(self, routes: dict) -> None:
        super().__init__(INTERFACE)
        self.routes = routes
        self.serial = 1
        self.calls: list[tuple] = []
        self.overtaking: str | None = None

    @method()
    def Lease(self, service: "s", id_: "s") -> "st":
        self.calls.append(("Lease", service, id_))
        if id_ == "nobody":
            raise DBusError("dev.tenement.Error.NotFound", "notes:nobody: no such tenant")
        return ["127.0.0.1:20001", 7]

    @method()
    def Release(self, service: "s", id_: "s", generation: "t"):
        self.calls.append(("Release", service, id_, generation))

    @method()
    def Report(self, service: "s", id_: "s", generation: "t", what: "s"):
        self.calls.append(("Report", service, id_, generation, what))

    @method()
    def GetRoutes(self) -> "ts":
        self.calls.append(("GetRoutes",))
        reply = [self.serial, json.dumps(self.routes)]
        if self.overtaking is not None:
            self.serial += 1
            self.RoutesChanged(self.serial, self.overtaking)
        return reply

    @signal()
    def Revoked(self, service, id_, generation, reason) -> "ssts":
        return [service, id_, generation, reason]

    @signal()
    def RoutesChanged(self, serial, change) -> "ts":
        return [serial, change]


class Heard:
    def __init__(self) -> None:
        self.routes: list[dict] = []
        self.changes: list[Change] = []
        self.revocations: list[tuple] = []
        self.backs = 0

    def routes_replaced(self, text: str) -> None:
        self.routes.append(json.loads(text))

    def routes_changed(self, change: Change) -> None:
        self.changes.append(change)

    def revoked(self, *what) -> None:
        self.revocations.append(what)

    def manager_back(self) -> None:
        self.backs += 1


async def serve(address: str, manager: Manager) -> MessageBus:
    bus = await MessageBus(bus_address=address).connect()
    bus.export(PATH, manager)
    assert await bus.request_name(NAME) is RequestNameReply.PRIMARY_OWNER
    return bus


class Connected:
    """A ManagerBus that runs, and what it heard."""

    def __init__(self, address: str) -> None:
        self.heard = Heard()
        self.bus = ManagerBus(self.heard, address=address)

    async def __aenter__(self) -> "Connected":
        self._task = asyncio.create_task(self.bus.run())
        return self

    async def __aexit__(self, *_) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def run(coroutine):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(coroutine, 10))


def test_routes_are_read_and_changes_followed_in_order(address):
    async def case():
        manager = Manager({"domains": ["localhost"]})
        served = await serve(address, manager)
        async with Connected(address) as here:
            await eventually(lambda: len(here.heard.routes) == 1)
            manager.RoutesChanged(2, '{"tenants": {"notes:alice": {"weight": 5}}}')
            await eventually(lambda: len(here.heard.changes) == 1)
            assert here.heard.changes[0].tenants["notes:alice"].weight == 5
            manager.serial = 9
            manager.RoutesChanged(9, "{}")  # 3 to 8 were missed
            await eventually(lambda: len(here.heard.routes) == 2)
            manager.RoutesChanged(10, '{"reload": true}')
            await eventually(lambda: len(here.heard.routes) == 3)
        served.disconnect()

    run(case())


def test_a_change_that_overtakes_the_document_is_applied_after_it(address):
    async def case():
        manager = Manager({"domains": ["localhost"]})
        manager.overtaking = '{"tenants": {"notes:new": {}}}'
        served = await serve(address, manager)
        async with Connected(address) as here:
            await eventually(lambda: bool(here.heard.changes))
            assert len(here.heard.routes) == 1
            assert list(here.heard.changes[0].tenants) == ["notes:new"]
        served.disconnect()

    run(case())


def test_lease_release_report_and_errors_travel(address):
    async def case():
        manager = Manager({})
        served = await serve(address, manager)
        async with Connected(address) as here:
            await eventually(lambda: len(here.heard.routes) == 1)
            assert await here.bus.lease("notes", "alice") == ("127.0.0.1:20001", 7)
            with pytest.raises(NotFound):
                await here.bus.lease("notes", "nobody")
            here.bus.report("notes", "alice", 7, "refused")
            here.bus.release("notes", "alice", 7)
            await eventually(lambda: ("Release", "notes", "alice", 7) in manager.calls)
            assert ("Report", "notes", "alice", 7, "refused") in manager.calls
            manager.Revoked("notes", "alice", 7, "stop")
            await eventually(lambda: here.heard.revocations == [("notes", "alice", 7, "stop")])
        served.disconnect()

    run(case())


def test_a_signal_of_anybody_else_is_ignored(address):
    async def case():
        manager = Manager({})
        served = await serve(address, manager)
        async with Connected(address) as here:
            await eventually(lambda: len(here.heard.routes) == 1)
            other = await MessageBus(bus_address=address).connect()
            assert here.bus._bus is not None
            forged = Message(
                destination=here.bus._bus.unique_name,  # past all match rules
                path=PATH,
                interface=INTERFACE,
                member="Revoked",
                message_type=MessageType.SIGNAL,
                signature="ssts",
                body=["notes", "alice", 7, "forged"],
            )
            await other.send(forged)
            await other.introspect("org.freedesktop.DBus", "/org/freedesktop/DBus")  # behind the signal
            manager.Revoked("notes", "alice", 7, "real")
            await eventually(lambda: bool(here.heard.revocations))
            assert here.heard.revocations == [("notes", "alice", 7, "real")]
            other.disconnect()
        served.disconnect()

    run(case())


def test_a_manager_that_leaves_is_unreachable_and_one_that_returns_is_asked_for_its_routes(address):
    async def case():
        manager = Manager({"domains": ["one"]})
        served = await serve(address, manager)
        async with Connected(address) as here:
            await eventually(lambda: len(here.heard.routes) == 1)
            served.disconnect()
            await served.wait_for_disconnect()
            with pytest.raises(Unreachable):
                await here.bus.lease("notes", "alice")
            assert here.heard.backs == 0
            manager = Manager({"domains": ["two"]})
            served = await serve(address, manager)
            await eventually(lambda: here.heard.backs == 1)
            await eventually(lambda: here.heard.routes[-1] == {"domains": ["two"]})
            assert await here.bus.lease("notes", "alice") == ("127.0.0.1:20001", 7)
        served.disconnect()

    run(case())


def test_a_worker_that_starts_before_the_manager_waits_for_its_routes(address):
    async def case():
        async with Connected(address) as here:
            with pytest.raises(Unreachable):
                await here.bus.lease("notes", "alice")
            served = await serve(address, Manager({"domains": ["late"]}))
            await eventually(lambda: bool(here.heard.routes))
            assert here.heard.backs == 0
            served.disconnect()

    run(case())
