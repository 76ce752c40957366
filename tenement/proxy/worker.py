"""What a worker's connections share: it wires the parts, follows the manager, and knows all clients.

How it runs, from the first connection to the last, is in `running`.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Final, Protocol, cast

from tenement.counters import Counters
from tenement.proxy.access import AccessLog
from tenement.proxy.announced import AnnouncedConnection
from tenement.proxy.connector import Connector
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
from tenement.proxy.upstream import UpstreamPool

log = logging.getLogger(__name__)

_HEX_BYTES: Final[list[bytes]] = [b"%02x" % number for number in range(256)]
# So many connections are looked at for one that makes room: a crowd of busy ones must not make new ones dear.
_LOOKED_AT: Final = 64


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
        self.connector = Connector(settings)
        # Set while there are deadlines to look at closely; set when a worker that drains has no client left.
        self.watching = asyncio.Event()
        self.empty = asyncio.Event()
        self._clients: dict[Client, None] = {}
        self._id_prefix = secrets.token_hex(6).encode()
        self._id_count = -1
        self._ids = b""

    def use_bus(self, bus: Bus) -> None:
        """Take leases from this manager. To be called once, first."""
        self.leases = Leases(bus, self._make_pool, linger_s=self.settings.lease_linger_s)

    def next_request_id(self) -> bytes:
        """An id that no other request has."""
        self._id_count += 1
        last = self._id_count & 0xFF
        if last == 0:
            self._ids = b"%b%08x" % (self._id_prefix, self._id_count >> 8)
        return b"".join((self._ids, _HEX_BYTES[last]))

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
            self.empty.set()

    def watch(self) -> None:
        """Something begins, and with it deadlines to look at closely."""
        if not self.watching.is_set():
            self.now = monotonic()
            self.watching.set()

    def make_protocol(self, scheme: bytes) -> asyncio.Protocol:
        """The protocol of a new connection."""
        if self.announcers:
            return AnnouncedConnection(self, partial(self._make_client, scheme))
        return self._make_client(scheme, "")

    def look_at_deadlines(self) -> None:
        """Look at the deadlines of everything there is."""
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

    def is_quiet(self) -> bool:
        """Whether no deadline is near: at most there are connections that wait for a request."""
        return (
            not (self.gates or self.access.pending or self.draining)
            and self.leases.quiet
            and all(client.idle for client in self._clients)
        )

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

    def _make_client(self, scheme: bytes, peer: str) -> asyncio.Protocol:
        make_client = cast(Callable[[], asyncio.Protocol], partial(ClientConnection, self, scheme, peer))
        return self.tls.wrap(make_client) if scheme == b"https" else make_client()

    def _make_pool(self, address: str) -> UpstreamPool:
        return UpstreamPool(address, self.connector, self.settings)
