"""A client of systemd's own D-Bus interface, org.freedesktop.systemd1(5): units, jobs and their signals.

All of tenement's dealings with PID 1 pass through here. dbus-fast carries them, because it can pass file
descriptors and any property by its signature, and because waiting for PID 1 never holds up the event loop.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from tenement.errors import TenementError

_NAME: Final = "org.freedesktop.systemd1"
_PATH: Final = "/org/freedesktop/systemd1"
_MANAGER: Final = "org.freedesktop.systemd1.Manager"
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
UNIT: Final = "org.freedesktop.systemd1.Unit"
SERVICE: Final = "org.freedesktop.systemd1.Service"

CALL_TIMEOUT_S: Final = 25.0
"""How long PID 1 may take to answer a call (not: to finish a job)."""

_EARLY_RESULTS_MAX: Final = 256


class SystemdError(TenementError):
    """systemd refused a call. `name` is its D-Bus error name."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class Property(NamedTuple):
    """One property of a unit, with its D-Bus signature."""

    name: str
    signature: str
    value: Any


class UnitState(NamedTuple):
    """A row of ListUnits: what is loaded under this name."""

    name: str
    active: str
    sub: str


def unit_path(unit: str) -> str:
    """The object path of a unit: all but letters and digits become _XX (sd_bus_path_encode(3))."""
    escaped = "".join(
        c if c.isascii() and c.isalnum() and not (i == 0 and c.isdigit()) else f"_{ord(c):02x}"
        for i, c in enumerate(unit)
    )
    return f"{_PATH}/unit/{escaped}"


def unit_from_path(path: str) -> str | None:
    """The unit behind an object path; None if the path is not a unit's."""
    head, _, escaped = path.rpartition("/")
    if head != f"{_PATH}/unit":
        return None
    first, *rest = escaped.split("_")
    try:
        return first + "".join(chr(int(part[:2], 16)) + part[2:] for part in rest)
    except ValueError:
        return None


class Job:
    """A queued job of PID 1; `result()` waits for its end: "done", "failed", "canceled", "frozen", ..."""

    def __init__(self, future: asyncio.Future[str]) -> None:
        self._future = future

    async def result(self, timeout_s: float) -> str:
        """The job's result; raises TimeoutError after `timeout_s` seconds."""
        async with asyncio.timeout(timeout_s):
            return await asyncio.shield(self._future)


ChangeHandler = Callable[[str, str, dict[str, Any]], None]
"""Called with (unit, interface, changed properties) for units whose names begin with the watched prefix."""


class Systemd:
    """systemd's manager object, on a bus connection that somebody else owns."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._jobs: dict[str, asyncio.Future[str]] = {}
        # JobRemoved can arrive before the reply that names the job.
        self._early: OrderedDict[str, str] = OrderedDict()
        self._on_change: ChangeHandler | None = None
        self._prefix = ""

    async def watch(self, prefix: str, on_change: ChangeHandler) -> None:
        """Subscribe to jobs, and to the properties of units whose name begins with `prefix`."""
        self._prefix, self._on_change = f"{_PATH}/unit/{unit_path(prefix).rpartition('/')[2]}", on_change
        self._bus.add_message_handler(self._on_message)
        for rule in (
            f"type='signal',sender='{_NAME}',interface='{_MANAGER}',member='JobRemoved'",
            f"type='signal',sender='{_NAME}',interface='{_PROPERTIES}',member='PropertiesChanged',"
            f"path_namespace='{_PATH}/unit'",
        ):
            await self._call(
                "org.freedesktop.DBus",
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus",
                "AddMatch",
                "s",
                [rule],
            )
        await self._manager("Subscribe")

    async def start_transient(
        self, unit: str, properties: Iterable[Property], fds: Sequence[int] = (), mode: str = "fail"
    ) -> Job:
        """Create and start a transient unit. Values of type h index into `fds`. Raises SystemdError."""
        listed = [[p.name, Variant(p.signature, p.value)] for p in properties]
        reply = await self._manager("StartTransientUnit", "ssa(sv)a(sa(sv))", [unit, mode, listed, []], fds)
        return self._job(reply[0])

    async def stop(self, unit: str) -> Job:
        """Stop a unit. Raises SystemdError, for a unit that is not loaded NoSuchUnit."""
        return self._job((await self._manager("StopUnit", "ss", [unit, "replace"]))[0])

    async def kill(self, unit: str, signal: int) -> None:
        """Send a signal to every process of the unit. Raises SystemdError."""
        await self._manager("KillUnit", "ssi", [unit, "all", signal])

    async def thaw(self, unit: str) -> None:
        """Thaw a frozen unit; does nothing for one that is not. Raises SystemdError."""
        await self._manager("ThawUnit", "s", [unit])

    async def reset_failed(self, unit: str) -> None:
        """Forget the failure of a unit, and the unit with it. Raises SystemdError if it is not loaded."""
        await self._manager("ResetFailedUnit", "s", [unit])

    async def set_properties(self, unit: str, properties: Iterable[Property]) -> None:
        """Change properties of a loaded unit until the next boot. Raises SystemdError."""
        listed = [[p.name, Variant(p.signature, p.value)] for p in properties]
        await self._manager("SetUnitProperties", "sba(sv)", [unit, True, listed])

    async def list_units(self, patterns: list[str]) -> list[UnitState]:
        """All loaded units whose names match one of the glob patterns."""
        reply = await self._manager("ListUnitsByPatterns", "asas", [[], patterns])
        return [UnitState(row[0], row[3], row[4]) for row in reply[0]]

    async def get(self, unit: str, interface: str, name: str) -> Any:
        """One property of a unit. Raises SystemdError."""
        reply = await self._call(_NAME, unit_path(unit), _PROPERTIES, "Get", "ss", [interface, name])
        return reply[0].value

    async def get_all(self, unit: str, interface: str) -> dict[str, Any]:
        """All properties of a unit in `interface` (UNIT or SERVICE). Raises SystemdError."""
        reply = await self._call(_NAME, unit_path(unit), _PROPERTIES, "GetAll", "s", [interface])
        return {name: variant.value for name, variant in reply[0].items()}

    async def version(self) -> int:
        """systemd's major version, for example 257."""
        reply = await self._call(_NAME, _PATH, _PROPERTIES, "Get", "ss", [_MANAGER, "Version"])
        digits = "".join(c if c.isdigit() else " " for c in str(reply[0].value)).split()
        return int(digits[0]) if digits else 0

    async def _manager(
        self, member: str, signature: str = "", body: Sequence[Any] = (), fds: Sequence[int] = ()
    ) -> Any:
        return await self._call(_NAME, _PATH, _MANAGER, member, signature, body, fds)

    async def _call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str,
        body: Sequence[Any],
        fds: Sequence[int] = (),
    ) -> Any:
        message = Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            unix_fds=list(fds),
        )
        async with asyncio.timeout(CALL_TIMEOUT_S):
            reply = await self._bus.call(message)
        assert reply is not None  # only for messages that ask for no reply
        if reply.message_type is MessageType.ERROR:
            text = reply.body[0] if reply.body else ""
            raise SystemdError(reply.error_name or "", str(text))
        return reply.body

    def _job(self, path: str) -> Job:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if path in self._early:
            future.set_result(self._early.pop(path))
        else:
            self._jobs[path] = future
        return Job(future)

    def _on_message(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL:
            return
        path = message.path or ""
        if message.member == "PropertiesChanged" and path.startswith(self._prefix):
            unit = unit_from_path(path)
            if unit is not None and self._on_change is not None:
                interface, changed, _ = message.body
                self._on_change(unit, interface, {name: variant.value for name, variant in changed.items()})
        elif message.member == "JobRemoved" and message.interface == _MANAGER:
            _, path, _, result = message.body
            future = self._jobs.pop(path, None)
            if future is None:
                self._early[path] = result
                if len(self._early) > _EARLY_RESULTS_MAX:
                    self._early.popitem(last=False)
            elif not future.done():
                future.set_result(result)
