"""The worker: wires the parts, watches deadlines, and ends without losing a request.

On SIGTERM it takes no new connection (systemd holds the sockets, and the other workers go on), lets requests
in flight finish, answers the last one on each connection with `Connection: close`, closes connections that
have been idle for a while, and cuts what is left at the drain deadline.
"""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import secrets
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Final, NamedTuple, Protocol, cast

import sdnotify

from tenement.counters import Counters
from tenement.proxy.access import AccessLog
from tenement.proxy.announced import AnnouncedConnection
from tenement.proxy.bus import ManagerBus
from tenement.proxy.document import Change, Document
from tenement.proxy.forwarded import TrustedProxies
from tenement.proxy.leases import Bus, Leases
from tenement.proxy.limits import Gates
from tenement.proxy.pages import Pages
from tenement.proxy.routes import Table
from tenement.proxy.server import ClientConnection
from tenement.proxy.settings import Settings
from tenement.proxy.sticky import Sticky
from tenement.proxy.tls import Tls
from tenement.proxy.tunnels import Tunnels
from tenement.proxy.upstream import Connector, UpstreamPool

log = logging.getLogger(__name__)

_BACKLOG: Final = 4096
# So many connections are looked at for one that makes room: a crowd of busy ones must not make new ones dear.
_LOOKED_AT: Final = 64


class Listener(NamedTuple):
    """A listening socket, and the scheme that is spoken on it."""

    sock: socket.socket
    scheme: bytes


class Client(Protocol):
    """A connection of a client, as the worker looks after it."""

    peer: str

    @property
    def idle(self) -> bool:
        """Whether it carries nothing, so that it can go to make room."""

    def sweep(self, now: float) -> None:
        """Look at the deadlines."""

    def drain(self) -> None:
        """The worker ends: close soon."""

    def abort(self) -> None:
        """Close now."""

    def turn_away(self) -> None:
        """Close: there are too many connections."""


class Worker:
    """One worker process. `bus` is the manager, as leases need it."""

    def __init__(
        self,
        pages: Pages,
        settings: Settings | None = None,
        access: AccessLog | None = None,
        counts: Path | None = None,
    ) -> None:
        self.settings = settings = settings or Settings()
        self.pages = pages
        self.access = access or AccessLog()
        self.table = Table(Document())
        self.counters = Counters(counts, lambda name: self.table.has_tenant(name))
        self.trusted = TrustedProxies(())
        self.announcers = TrustedProxies(())
        self.max_head_bytes = settings.max_head_bytes
        self.idle_timeout_s = settings.idle_timeout_s
        self.gates = Gates()
        self.draining = False
        self.now = monotonic()
        self.ready = asyncio.Event()
        self.leases: Leases[UpstreamPool]
        self.tls = Tls(self)
        self.sticky = Sticky("")
        self.tunnels = Tunnels()
        self._connector = Connector(settings)
        self._clients: dict[Client, None] = {}
        self._empty = asyncio.Event()
        self._watching = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._id_prefix = secrets.token_hex(6).encode()
        self._id_count = 0

    def use_bus(self, bus: Bus) -> None:
        """Take leases from this manager. To be called once, first."""
        self.leases = Leases(bus, self._make_pool, linger_s=self.settings.lease_linger_s)

    def next_request_id(self) -> bytes:
        """An id that no other request has."""
        self._id_count += 1
        return self._id_prefix + b"%010x" % self._id_count

    # What the manager says; see bus.Listener

    def routes_replaced(self, text: str) -> None:
        """Use a new routes document. Raises msgspec.MsgspecError for one that cannot be read."""
        self.table = Table.decode(text)
        document = self.table.document
        self.trusted = TrustedProxies(document.trusted_proxies)
        self.announcers = TrustedProxies(document.proxy_protocol_from)
        self.access.set_mode(document.access_log)
        self.sticky = Sticky(document.sticky_key)
        sizes = [policy.max_header_bytes for policy in document.services.values()]
        self.max_head_bytes = max([self.settings.max_head_bytes, *sizes])
        self.pages.read_own(policy.error_pages for policy in document.services.values())
        self.tls.replace(document)
        self.counters.prune_all()
        self.ready.set()

    def routes_changed(self, change: Change) -> None:
        """Follow a change of the routes."""
        self.table.apply(change)
        self.tls.change(change)
        self.counters.prune(name for name, entry in change.tenants.items() if entry is None)

    def revoked(self, service: str, id_: str, generation: int, reason: str) -> None:
        """A lease was called back."""
        self.leases.revoked(service, id_, generation, reason)
        self.tunnels.go_away(f"{service}:{id_}")

    def manager_back(self) -> None:
        """A new manager knows none of our leases."""
        self.leases.manager_back()

    # Connections

    async def listen(self, listeners: Sequence[Listener]) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()
        for sock, scheme in listeners:
            _set_listener_options(sock)
            make_protocol = partial(self._make_protocol, scheme)
            server = await loop.create_server(make_protocol, sock=sock, backlog=_BACKLOG)
            self._servers.append(server)

    @property
    def clients(self) -> list[Client]:
        """The connections of clients."""
        return list(self._clients)

    @property
    def connections(self) -> int:
        """How many connections of clients there are."""
        return len(self._clients)

    def add_client(self, client: Client) -> None:
        """Count a new connection; at the limit an old one that is idle goes, or the new one is turned
        away.
        """
        has_room = len(self._clients) < self.settings.max_connections or self._make_room()
        self._clients[client] = None
        if not has_room:
            client.turn_away()

    def remove_client(self, client: Client) -> None:
        """A connection is gone."""
        self._clients.pop(client, None)
        if self.draining and not self._clients:
            self._empty.set()

    def watch(self) -> None:
        """Something begins, and with it deadlines to look at closely."""
        if not self._watching.is_set():
            self.now = monotonic()
            self._watching.set()

    async def sweep(self) -> None:
        """Look at all deadlines, again and again as long as there are any, until cancelled.

        Connections that merely wait for a request are looked at seldom, and nothing at all is not looked at.
        """
        settings = self.settings
        while True:
            if not self._watching.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(settings.idle_sweep_interval_s if self._clients else None):
                        await self._watching.wait()
            if self._watching.is_set():
                await asyncio.sleep(settings.sweep_interval_s)
            self._look_at_deadlines()
            if self._is_quiet():
                self._watching.clear()

    async def drain(self) -> None:
        """End: see the top of the module."""
        self.draining = True
        self.watch()
        self.idle_timeout_s = self.settings.drain_idle_s
        for server in self._servers:
            server.close()
        await self.tls.drain()
        for client in list(self._clients):
            client.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_s):
                while self._clients:
                    self._empty.clear()
                    await self._empty.wait()
        if self._clients:
            log.warning(
                "drain: cutting %d connections at the end of %g s", len(self._clients), self.settings.drain_s
            )
        for client in list(self._clients):
            client.abort()
        await asyncio.sleep(0)
        await self._connector.close()
        await self.leases.close()
        self.access.flush()
        self.access.close()

    # Private

    def _make_room(self) -> bool:
        """Cut the oldest connection that is idle; busy ones before it are the last to be looked at again."""
        for client in list(islice(self._clients, _LOOKED_AT)):
            del self._clients[client]
            if client.idle:
                client.abort()
                return True
            self._clients[client] = None
        return False

    def _make_protocol(self, scheme: bytes) -> asyncio.Protocol:
        """The protocol of a new connection."""
        if self.announcers:
            return AnnouncedConnection(self, partial(self._make_client, scheme))
        return self._make_client(scheme, "")

    def _make_client(self, scheme: bytes, peer: str) -> asyncio.Protocol:
        make_client = cast(Callable[[], asyncio.Protocol], partial(ClientConnection, self, scheme, peer))
        return self.tls.wrap(make_client) if scheme == b"https" else make_client()

    def _look_at_deadlines(self) -> None:
        now = self.now = monotonic()
        for client in list(self._clients):
            try:
                client.sweep(now)
            except Exception:
                # One connection in a state nobody thought of must not stop the deadlines of all others.
                log.exception("%s: cut after a fault of the proxy", client.peer)
                client.abort()
        self.leases.sweep(now)
        for lease in self.leases.held.values():
            lease.pool.sweep(now)
        self.gates.sweep(now)
        self.access.flush()

    def _is_quiet(self) -> bool:
        """Whether no deadline is near: at most there are connections that wait for a request."""
        return (
            not (self.gates or self.access.pending or self.draining)
            and self.leases.quiet
            and all(client.idle for client in self._clients)
        )

    def _make_pool(self, address: str) -> UpstreamPool:
        return UpstreamPool(address, self._connector, self.settings)


def _set_listener_options(sock: socket.socket) -> None:
    """Options that accepted connections inherit: no Nagle, and an end to peers that vanished without a
    word.
    """
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


async def run(
    listeners: Sequence[Listener],
    templates: Path,
    bus_address: str | None = None,
    counts: Path | None = None,
) -> None:
    """Work until SIGTERM or SIGINT, then drain. `bus_address` None is the system bus.

    Requests are counted in the file `counts`, or nowhere to be seen.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    notifier = sdnotify.SystemdNotifier()
    # Where systemd may not raise the limit as far as the unit wants, as in some containers, less is served.
    settings = Settings().within(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    worker = Worker(Pages(templates), settings, counts=counts)
    bus = ManagerBus(worker, address=bus_address)
    worker.use_bus(bus)
    background = [
        loop.create_task(bus.run()),
        loop.create_task(worker.sweep()),
        loop.create_task(_watchdog(notifier)),
    ]
    try:
        notifier.notify("STATUS=Waiting for the manager's routes")
        await _either(stopped, worker.ready)
        if not stopped.is_set():
            await worker.listen(listeners)
            gc.freeze()  # What is there now stays; the collector need not look at it again.
            notifier.notify("READY=1\nSTATUS=Serving")
            await stopped.wait()
        notifier.notify("STOPPING=1\nSTATUS=Draining")
        await worker.drain()
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)


async def _watchdog(notifier: sdnotify.SystemdNotifier) -> None:
    """Tell systemd that the loop turns, if it wants to know: see WatchdogSec= in systemd.service(5)."""
    interval_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 3_000_000
    while interval_s:
        await asyncio.sleep(interval_s)
        notifier.notify("WATCHDOG=1")


async def _either(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
