"""The worker's side of dev.tenement.Manager1 on the system bus.

One connection, made anew whenever it is lost. Routes are read once and then followed by `RoutesChanged`,
whose serials tell if one was missed. Signals count only from the owner of the manager's name: anybody on the
bus may send a signal that looks like its.
"""

import asyncio
import logging
from typing import Any, Final, Protocol

import msgspec
from dbus_fast import Message, MessageFlag, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import DBusError

from tenement.bus import message_bus, unless_lost
from tenement.errors import Internal, TenementError, Unreachable, from_dbus
from tenement.proxy.document import Change

log = logging.getLogger(__name__)

NAME: Final = "dev.tenement.Manager"
PATH: Final = "/dev/tenement/Manager"
INTERFACE: Final = "dev.tenement.Manager1"

_DBUS: Final = "org.freedesktop.DBus"
_RULES: Final = (
    f"type='signal',sender='{NAME}',interface='{INTERFACE}',path='{PATH}'",
    f"type='signal',sender='{_DBUS}',interface='{_DBUS}',member='NameOwnerChanged',arg0='{NAME}'",
)
# What the bus says when the manager is not there, went away during the call, or cannot be started just now.
_GONE: Final = frozenset(
    f"{_DBUS}.Error.{each}"
    for each in (
        "Disconnected",
        "NameHasNoOwner",
        "NoReply",
        "ServiceUnknown",
        "Spawn.ChildExited",
        "Spawn.ChildSignaled",
        "Spawn.Failed",
        "Spawn.ExecFailed",
        "TimedOut",
        "Timeout",
        "UnknownObject",
        "UnknownInterface",
        "UnknownMethod",
    )
) | {"org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.TransactionIsDestructive"}
_NO_ANSWER: Final = MessageFlag.NO_REPLY_EXPECTED | MessageFlag.NO_AUTOSTART
_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 2.0
_CALL_TIMEOUT_S: Final = 30.0


class Listener(Protocol):
    """Who wants to know what the manager says."""

    def routes_replaced(self, text: str) -> None:
        """A whole routes document has come."""

    def routes_changed(self, change: Change) -> None:
        """Some tenants are new, other or gone."""

    def revoked(self, service: str, id_: str, generation: int, reason: str) -> None:
        """A lease was called back."""

    def manager_back(self) -> None:
        """There is a manager that knows none of this worker's leases."""


class ManagerBus:
    """The manager, as long as there is one. `run` keeps the connection; the calls raise Unreachable without
    one.
    """

    def __init__(self, listener: Listener, *, address: str | None = None) -> None:
        """Calls reach the system bus, or the bus at `address`."""
        self._listener = listener
        self._address = address
        self._bus: MessageBus | None = None
        self._owner: str | None = None
        self._serial: int | None = None
        self._early: list[tuple[int, str]] = []
        self._had_manager = False
        self._reading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Stay connected until cancelled."""
        retry_s = _FIRST_RETRY_S
        try:
            while True:
                try:
                    async with asyncio.timeout(_CALL_TIMEOUT_S):
                        bus = await message_bus(self._address).connect()
                    await self._use(bus)
                    retry_s = _FIRST_RETRY_S
                    log.warning("the system bus closed the connection; connecting again")
                except (OSError, EOFError, DBusError, TenementError, TimeoutError) as error:
                    log.warning("no connection to the system bus, trying again in %.1f s: %s", retry_s, error)
                self._drop()
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _LAST_RETRY_S)
        finally:
            if self._reading is not None:
                self._reading.cancel()
                await asyncio.gather(self._reading, return_exceptions=True)
            if self._bus is not None:
                self._bus.disconnect()

    async def lease(self, service: str, id_: str) -> tuple[str, int]:
        """See leases.Bus.lease; the caller brings the timeout."""
        reply = await self._call("Lease", "ss", [service, id_])
        match reply:
            case [str(address), int(generation)]:
                return address, generation
        raise Internal(f"Lease: the reply {reply!r} is not an address and a generation")

    def release(self, service: str, id_: str, generation: int) -> None:
        """See leases.Bus.release. A manager that is gone has forgotten the lease by itself."""
        self._tell("Release", "sst", [service, id_, generation])

    def report(self, service: str, id_: str, generation: int, what: str) -> None:
        """See leases.Bus.report."""
        self._tell("Report", "ssts", [service, id_, generation, what])

    # Private

    async def _use(self, bus: MessageBus) -> None:
        """Use a new connection until it is lost."""
        lost = asyncio.ensure_future(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                await unless_lost(lost, self._begin(bus))
            await asyncio.wait({lost})
        finally:
            if not lost.done():
                bus.disconnect()
            await asyncio.gather(lost, return_exceptions=True)

    async def _begin(self, bus: MessageBus) -> None:
        """Hear of the manager and its signals."""
        self._bus = bus
        bus.add_message_handler(self._on_message)
        for rule in _RULES:
            await self._call_daemon("AddMatch", "s", [rule])
        try:
            (owner,) = await self._call_daemon("GetNameOwner", "s", [NAME])
        except Unreachable:
            owner = ""  # Not there yet: asking for the routes activates it.
        self._owner_is(owner)
        if not owner:
            self._read_routes_again()

    def _drop(self) -> None:
        """Forget a connection that is lost; the manager has forgotten the leases made on it."""
        if self._bus is not None:
            self._bus.disconnect()
        self._bus = None
        self._owner = None

    def _owner_is(self, owner: str) -> None:
        """Follow the manager's coming and going."""
        if owner == self._owner:
            return
        self._owner = owner
        if not owner:
            log.info("the manager has left the bus; serving on the leases held")
            return
        self._read_routes_again()
        if self._had_manager:
            log.info("the manager is back; asking for the leases in use anew")
            self._listener.manager_back()
        self._had_manager = True

    def _read_routes_again(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._serial = None
        self._early.clear()
        self._reading = asyncio.get_running_loop().create_task(self._read_routes())

    async def _read_routes(self) -> None:
        """Read the routes document, however long it takes, and apply the changes that overtook it."""
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                async with asyncio.timeout(_CALL_TIMEOUT_S):
                    reply = await self._call("GetRoutes", "", [])
                serial, text = reply
                self._listener.routes_replaced(text)
            except (TenementError, TimeoutError, msgspec.MsgspecError, ValueError) as error:
                log.warning("no routes from the manager, trying again in %.1f s: %s", retry_s, error)
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _LAST_RETRY_S)
                continue
            break
        self._serial = serial
        early, self._early = self._early, []
        self._reading = None
        for change_serial, change in early:
            self._apply(change_serial, change)

    def _on_message(self, message: Message) -> None:
        """Follow signals. Returns None: a truthy result would end the message's way."""
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.sender == _DBUS and message.member == "NameOwnerChanged" and message.body[0] == NAME:
            self._owner_is(message.body[2])
        elif message.sender == self._owner and message.interface == INTERFACE:
            if message.member == "Revoked" and message.signature == "ssts":
                self._listener.revoked(*message.body)
            elif message.member == "RoutesChanged" and message.signature == "ts":
                serial, text = message.body
                if self._serial is None:
                    self._early.append((serial, text))
                else:
                    self._apply(serial, text)

    def _apply(self, serial: int, text: str) -> None:
        """Apply a change, unless it is in the document already; read the document again if one was missed."""
        if self._serial is None or serial <= self._serial:
            return
        try:
            change = msgspec.json.decode(text, type=Change)
        except msgspec.MsgspecError as error:
            log.warning("a change of the routes cannot be read, reading them all: %s", error)
            change = Change(reload=True)
        if change.reload or serial != self._serial + 1:
            self._read_routes_again()
            return
        self._serial = serial
        self._listener.routes_changed(change)

    async def _call(self, member: str, signature: str, body: list[Any]) -> list[Any]:
        return await self._send(Message(NAME, PATH, INTERFACE, member, signature=signature, body=body))

    async def _call_daemon(self, member: str, signature: str, body: list[Any]) -> list[Any]:
        return await self._send(
            Message(_DBUS, "/org/freedesktop/DBus", _DBUS, member, signature=signature, body=body)
        )

    async def _send(self, message: Message) -> list[Any]:
        """The body of the reply. Raises the error that the reply is, Unreachable if there was nobody to
        reply.
        """
        if self._bus is None:
            raise Unreachable("there is no connection to the system bus")
        try:
            reply = await self._bus.call(message)
        except (OSError, EOFError, DBusError) as error:
            raise Unreachable(f"the connection to the system bus was lost: {error}") from error
        if reply is None:
            raise Unreachable("the connection to the system bus was lost")
        if reply.message_type is MessageType.ERROR:
            text = str(reply.body[0]) if reply.body else ""
            if reply.error_name in _GONE:
                raise Unreachable(f"the manager does not answer: {text} ({reply.error_name})")
            raise from_dbus(reply.error_name or "", text)
        return list(reply.body)

    def _tell(self, member: str, signature: str, body: list[Any]) -> None:
        if self._bus is None:
            return
        sent = self._bus.send(
            Message(NAME, PATH, INTERFACE, member, signature=signature, body=body, flags=_NO_ANSWER)
        )
        # A connection lost meanwhile is noticed by `run`; nobody needs this one future's view of it.
        sent.add_done_callback(lambda future: future.cancelled() or future.exception())
