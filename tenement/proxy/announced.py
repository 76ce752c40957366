"""Connections that a load balancer opens for a client and announces by a header of the PROXY protocol.

Until the header is there, the connection is this; then it becomes what it would have been from the start (TLS
or HTTP), only with the client's address.
"""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, cast

from tenement.proxy.proxy_protocol import BadHeader, parse

if TYPE_CHECKING:
    from tenement.proxy.worker import Worker

log = logging.getLogger(__name__)


class AnnouncedConnection(asyncio.Protocol):
    """A new connection, as long as it is not known whether a header is due, or has come.

    `make_protocol` gets the client's address, or "" to take it from the connection.
    """

    def __init__(self, worker: "Worker", make_protocol: Callable[[str], asyncio.Protocol]) -> None:
        self._worker = worker
        self._make_protocol = make_protocol
        self._buffer = b""
        self._deadline = 0.0
        self._transport: asyncio.Transport
        self.peer = ""

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        worker = self._worker
        self.peer = peer_of(transport)
        if self.peer not in worker.announcers:
            self._become("")
            return
        worker.watch()
        self._deadline = monotonic() + worker.settings.head_timeout_s
        worker.add_client(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._buffer += data
        try:
            header = parse(self._buffer)
        except BadHeader as error:
            log.info("%s: closed, for want of a header of the PROXY protocol: %s", self.peer, error)
            self._transport.abort()
            return
        if header is not None:
            self._worker.remove_client(self)
            self._become(header.client, self._buffer[header.end :])

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._worker.remove_client(self)

    # What the worker calls; see worker.Client

    @property
    def idle(self) -> bool:
        """Never: its deadline is near."""
        return False

    def sweep(self, now: float) -> None:
        """Look at the deadline."""
        if now >= self._deadline:
            self._transport.abort()

    def drain(self) -> None:
        """Wait, but not for long: the header may be on its way."""
        self._deadline = min(self._deadline, monotonic() + self._worker.settings.drain_idle_s)

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()

    def turn_away(self) -> None:
        """Close: there are too many connections."""
        self._transport.abort()

    # Private

    def _become(self, client: str, data: bytes = b"") -> None:
        """Give the connection to the protocol that is spoken on it."""
        protocol = self._make_protocol(client)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if data and not self._transport.is_closing():
            protocol.data_received(data)


def peer_of(transport: asyncio.BaseTransport) -> str:
    """The address at the other end, as apps and logs know it.

    The socket listens for both families; IPv4 is shown as such all the same.
    """
    name = transport.get_extra_info("peername")
    return name[0].removeprefix("::ffff:") if isinstance(name, tuple) else "127.0.0.1"
