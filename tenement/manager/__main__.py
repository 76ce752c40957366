"""The manager's process: a notify-reload service that connects everything and ends on SIGTERM."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import sdnotify
from dbus_fast import Message, MessageType, NameFlag, RequestNameReply
from dbus_fast.aio import MessageBus
from systemd.journal import JournalHandler

from tenement.bus import message_bus, unless_lost
from tenement.errors import TenementError
from tenement.manager import bus_service
from tenement.manager.authority import Authority
from tenement.manager.bus_service import BusService
from tenement.manager.configuration import Configuration
from tenement.manager.interface import methods
from tenement.manager.manager import STATE_DIRECTORY, Manager, check_systemd
from tenement.registry import Registry
from tenement.systemd import Systemd

log = logging.getLogger("tenement.manager")

_BUS: Final = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")


class Daemon:
    """One run of the manager."""

    def __init__(self) -> None:
        self._notifier = sdnotify.SystemdNotifier()
        self._stop = asyncio.Event()
        self._reloads: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Serve until SIGTERM, or until the bus is gone; gives the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._stop.set)
        bus = await message_bus(descriptors=True).connect()
        lost = asyncio.create_task(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
        try:
            await unless_lost(lost, self._serve(bus))
        except (OSError, EOFError):
            if not lost.done():
                raise
            # systemd starts it again, which adopts the tenants: simpler than to mend every half-done call.
            log.error("the system bus is gone; ending to be started again")
            return 1
        finally:
            if not lost.done():
                bus.disconnect()
            await asyncio.gather(lost, return_exceptions=True)
        return 0

    async def _serve(self, bus: MessageBus) -> None:
        """Start, and work until SIGTERM."""
        async with self._manager(bus) as manager:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._begin_reload, manager)
            self._notifier.notify("READY=1")
            watchdog = asyncio.create_task(self._watchdog())
            try:
                await self._stop.wait()
            finally:
                self._notifier.notify("STOPPING=1")
                watchdog.cancel()
                await asyncio.gather(watchdog, *self._reloads, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _manager(self, bus: MessageBus) -> AsyncIterator[Manager]:
        systemd = Systemd(bus)
        version = await check_systemd(systemd)
        registry = Registry.open(STATE_DIRECTORY / "registry.db")
        configuration = Configuration(STATE_DIRECTORY / "config.json")
        service: BusService | None = None

        def emit(name: str, body: list[Any]) -> None:
            if service is not None:
                service.emit(name, body)

        manager = Manager(registry, configuration, systemd, version, emit)
        authority = Authority(bus)

        def client_gone(name: str) -> None:
            manager.worker_gone(name)
            authority.forget(name)

        try:
            await manager.start()
            await _watch_clients(bus, client_gone)
            service = BusService(bus, methods(manager), authority)
            await _own_name(bus)
            yield manager
        finally:
            if service is not None:
                await service.close()
            await manager.close()
            registry.close()

    def _begin_reload(self, manager: Manager) -> None:
        task = asyncio.create_task(self._reload(manager))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self, manager: Manager) -> None:
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        status = ""
        try:
            await manager.reload()
        except TenementError as error:
            for line in str(error).splitlines():
                log.error("%s", line)
            status = "the configuration has faults; going on with the last good one"
            log.error("%s", status)
        self._notifier.notify(f"READY=1\nSTATUS={status}")

    async def _watchdog(self) -> None:
        """Tell systemd that the loop turns. The only thing the manager does by the clock."""
        interval_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 2_000_000
        while interval_s:
            await asyncio.sleep(interval_s)
            self._notifier.notify("WATCHDOG=1")


async def _watch_clients(bus: MessageBus, gone: Callable[[str], None]) -> None:
    """Tell of every client that leaves the bus, by its unique name."""
    rule = "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg2=''"
    destination, path, interface = _BUS
    await bus.call(
        Message(
            destination=destination,
            path=path,
            interface=interface,
            member="AddMatch",
            signature="s",
            body=[rule],
        )
    )

    def on_message(message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.member == "NameOwnerChanged":
            name, _, owner = message.body
            if name.startswith(":") and not owner:
                gone(name)

    bus.add_message_handler(on_message)


async def _own_name(bus: MessageBus) -> None:
    reply = await bus.request_name(bus_service.NAME, NameFlag.DO_NOT_QUEUE)
    if reply not in (RequestNameReply.PRIMARY_OWNER, RequestNameReply.ALREADY_OWNER):
        raise TenementError(f"another process owns {bus_service.NAME}: is a second manager running?")


def main() -> int:
    """Run the manager; gives its exit status."""
    root = logging.getLogger()
    under_systemd = "JOURNAL_STREAM" in os.environ
    root.addHandler(
        JournalHandler(SYSLOG_IDENTIFIER="tenement-manager") if under_systemd else logging.StreamHandler()
    )
    root.setLevel(os.environ.get("TENEMENT_LOG", "INFO").upper())
    # Its own debug and info messages are about D-Bus internals.
    logging.getLogger("dbus_fast").setLevel(logging.WARNING)
    try:
        return asyncio.run(Daemon().run())
    except TenementError as error:
        for line in str(error).splitlines():
            log.error("%s", line)
        return 1


if __name__ == "__main__":
    sys.exit(main())
