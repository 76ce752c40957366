"""Connections to apps: answers read from them, and the pool that keeps them between requests.

A connection carries one exchange at a time. It reads the answer's head and finds its end; the exchange hears
of it as `answer_whole`, or as `answer_begins`, `answer_continues` and `answer_ends`. Bytes that nobody asked
for close the connection: they must not become the beginning of another tenant's visitor's answer.

Which connection a request may use: one that can be repeated (idempotent, no body) uses any, and if it turns
out that the app closed that one meanwhile, it is sent again on a new one. A request that must not be sent
twice uses one that was in use a moment ago and whose end has not been announced, or a new one.

A new connection that is reset before anything of an answer was one that the app had not accepted, or not
read, when it died: what can be repeated waits for its next start.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol, cast

from tenement.proxy.framing import BadFraming, Framing, UntilClose, of_body
from tenement.proxy.response_head import BadResponse, ResponseHead, parse
from tenement.proxy.settings import Settings

if TYPE_CHECKING:
    from tenement.proxy.connector import Connector

log = logging.getLogger(__name__)

_MAX_INTERIM: Final = 32
_SMALL: Final = 16 << 10
_EXPIRY_MARGIN_S: Final = 1.0


class Answered(Protocol):
    """The exchange, as its connection to the app sees it."""

    @property
    def decodes_chunks(self) -> bool:
        """Whether the client does not know chunks."""

    def connected(self, connection: "UpstreamConnection") -> None:
        """A new connection is there."""

    def connect_failed(self, error: OSError | TimeoutError) -> None:
        """There is no new connection."""

    def answer_interim(self, head: ResponseHead, data: bytes) -> None:
        """A 1xx answer other than 101 has come; `data` is it alone."""

    def answer_switches(self, head: ResponseHead, data: bytes, rest: bytes) -> None:
        """101: from here on the connection belongs to the upgraded protocol; `rest` is what came of that."""

    def answer_whole(self, head: ResponseHead, data: bytes, reusable: bool) -> None:
        """The whole answer has come at once."""

    def answer_begins(self, head: ResponseHead, data: bytes) -> None:
        """The head has come; `data` is it alone."""

    def answer_continues(self, data: bytes) -> None:
        """Some of the body has come."""

    def answer_ends(self, data: bytes, reusable: bool) -> None:
        """The last of the body has come."""

    def answer_broken(self, reason: str) -> None:
        """The answer cannot be passed on."""

    def app_lost(self, error: Exception | None) -> None:
        """The connection was lost before the end of the answer."""

    def app_sent(self, data: bytes) -> None:
        """Bytes of an upgraded connection."""

    def app_ended(self) -> None:
        """The app closed its direction of an upgraded connection."""

    def app_paused(self) -> None:
        """The app takes no more for now."""

    def app_resumed(self) -> None:
        """The app takes more."""


class UpstreamConnection:
    """One connection to an app: an asyncio.Protocol by its methods, as `server.ClientConnection` is."""

    __slots__ = (
        "_buffer",
        "_framing",
        "_interim",
        "_persistent",
        "_pool",
        "_previous",
        "_quick_ack",
        "_sock",
        "_transport",
        "closed",
        "exchange",
        "expires_at",
        "heard",
        "idle_since",
        "switched",
        "to_head",
        "uses",
        "write",
    )

    write: Callable[[bytes], None]

    def __init__(self, pool: "UpstreamPool", sock: socket.socket) -> None:
        self._pool = pool
        self._sock = sock
        self._quick_ack = sock.family != socket.AF_UNIX
        self._buffer = b""
        self._framing: Framing | None = None
        self._persistent = False
        self._previous: ResponseHead | None = None
        self._interim = 0
        self.exchange: Answered | None = None
        self.to_head = False
        self.heard = False
        self.switched = False
        self.closed = False
        self.uses = 0
        self.idle_since = 0.0
        self.expires_at = float("inf")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        settings = self._pool.settings
        self._transport.set_write_buffer_limits(settings.write_high_bytes, settings.write_low_bytes)
        self.write = self._transport.write

    def begin(self, exchange: Answered, head: bytes, *, to_head: bool) -> None:
        """Send a request's head, and give its answer to the exchange. `to_head`: the method is HEAD."""
        self.exchange = exchange
        self.to_head = to_head
        self.heard = False
        self.uses += 1
        self.write(head)

    def end(self, now: float, *, reusable: bool) -> None:
        """The exchange is over: keep the connection for another one, or close it."""
        self.exchange = None
        self._framing = None
        if reusable and not self.closed:
            self._pool.put(self, now)
        else:
            self.close()

    def close(self) -> None:
        """Close at once; unsent bytes are dropped, and nobody is told."""
        self.exchange = None
        if not self.closed:
            self.closed = True
            self._pool.forget(self)
            self._transport.abort()

    def cut(self) -> None:
        """Close at once, and tell the exchange."""
        exchange = self.exchange
        self.close()
        if exchange is not None:
            exchange.app_lost(ConnectionAbortedError("cut by the proxy"))

    def pause(self) -> None:
        """Take nothing more from the app."""
        if not self.closed:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Take more from the app."""
        if not self.closed:
            self._transport.resume_reading()

    def write_eof(self) -> None:
        """Close the direction to the app of an upgraded connection."""
        if not self.closed and self._transport.can_write_eof():
            self._transport.write_eof()

    def looks_open(self) -> bool:
        """Whether neither the end nor anything else has arrived and was not read yet."""
        try:
            self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    # What the transport calls

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        exchange = self.exchange
        if exchange is None:
            log.debug("%s: the app sent what nobody asked for", self._pool.address)
            self.close()
        elif self._framing is not None:
            self._read_body(exchange, data)
        elif self.switched:
            exchange.app_sent(data)
        else:
            self._read_head(exchange, data)

    def eof_received(self) -> bool:
        """See asyncio.Protocol. An upgraded connection stays open in the other direction."""
        if self.switched and self.exchange is not None:
            self.exchange.app_ended()
            return True
        self._lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        if exc is not None and not self.closed and not self.switched:
            self._rescue()
        self._lost(exc)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        if self.exchange is not None:
            self.exchange.app_paused()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        if self.exchange is not None:
            self.exchange.app_resumed()

    # Private

    def _read_head(self, exchange: Answered, data: bytes) -> None:
        if self._buffer:
            data = b"%b%b" % (self._buffer, data)
            self._buffer = b""
        self.heard = True
        previous = self._previous
        try:
            head = parse(data, self._pool.settings.max_head_bytes, to_head=self.to_head, previous=previous)
        except BadResponse as error:
            exchange.answer_broken(str(error))
            return
        if head is None:
            self._buffer = data
            self._acknowledge()
            return
        if head is not previous:
            self._previous = head if head.text else None
        whole = head.end + head.length
        if head.status < 200:
            self._read_interim(exchange, head, data)
        elif len(data) >= whole >= head.end:
            self._interim = 0
            if head.keep_alive_s is not None:
                self._expire_after(head.keep_alive_s)
            # Whatever more there is, it is not the next answer.
            exchange.answer_whole(head, data[:whole], head.persistent and len(data) == whole)
        else:
            self._read_long(exchange, head, data)

    def _read_long(self, exchange: Answered, head: ResponseHead, data: bytes) -> None:
        """Begin with an answer whose end has not come yet."""
        self._interim = 0
        self._persistent = head.persistent
        self._framing = of_body(head.length, decode=exchange.decodes_chunks)
        if head.keep_alive_s is not None:
            self._expire_after(head.keep_alive_s)
        rest = data[head.end :]
        exchange.answer_begins(head, data[: head.end] if rest else data)
        if rest and self.exchange is exchange:
            self._read_body(exchange, rest)
        else:
            self._acknowledge()

    def _read_interim(self, exchange: Answered, head: ResponseHead, data: bytes) -> None:
        """Pass on a 1xx answer, and read what follows it."""
        rest = data[head.end :]
        if head.status == 101:
            self.switched = True
            exchange.answer_switches(head, data[: head.end], rest)
            return
        self._interim += 1
        if self._interim > _MAX_INTERIM:
            exchange.answer_broken("it sends interim answers without end")
            return
        exchange.answer_interim(head, data[: head.end])
        if self.exchange is not exchange:
            return
        if rest:
            self._read_head(exchange, rest)
        else:
            self._acknowledge()

    def _read_body(self, exchange: Answered, data: bytes) -> None:
        framing = self._framing
        assert framing is not None
        try:
            passed, rest = framing.feed(data)
        except BadFraming as error:
            exchange.answer_broken(str(error))
            return
        if framing.done:
            exchange.answer_ends(passed, self._persistent and not rest)
            return
        if passed:
            exchange.answer_continues(passed)
        if len(data) < _SMALL:
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Acknowledge now what has come of an unfinished answer.

        An app that writes its head and its body separately, without TCP_NODELAY, holds the body back until
        the head is acknowledged, and the kernel delays that by 40 ms (tcp(7), TCP_QUICKACK).
        """
        if self._quick_ack and not self.closed:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def _expire_after(self, keep_alive_s: int) -> None:
        """Believe an app that says when it will close."""
        self.expires_at = monotonic() + max(0.0, keep_alive_s - _EXPIRY_MARGIN_S)

    def _rescue(self) -> None:
        """Read an answer that came before the app closed on our upload: a failed write drops what was not
        read yet.
        """
        try:
            while self.exchange is not None and (data := self._sock.recv(_SMALL, socket.MSG_DONTWAIT)):
                self.data_received(data)
        except OSError:
            return

    def _lost(self, error: Exception | None) -> None:
        exchange, framing = self.exchange, self._framing
        self.close()
        if exchange is None:
            return
        if error is None and isinstance(framing, UntilClose):
            exchange.answer_ends(b"", False)
        else:
            exchange.app_lost(error)


class UpstreamPool:
    """The connections made under one lease."""

    def __init__(self, address: str, connector: "Connector", settings: Settings) -> None:
        self.address = address
        self.settings = settings
        self.connections: set[UpstreamConnection] = set()
        self._connector = connector
        self._idle: list[UpstreamConnection] = []
        self._open = True

    def take(self, now: float, *, repeatable: bool) -> UpstreamConnection | None:
        """The unused connection that was used last, if it will do; see the top of the module."""
        idle = self._idle
        while idle:
            if not repeatable and now - idle[-1].idle_since > self.settings.unsafe_reuse_s:
                return None
            connection = idle.pop()
            if now < connection.expires_at and (repeatable or connection.looks_open()):
                return connection
            connection.close()
        return None

    def connect(self, exchange: Answered) -> None:
        """Make a new connection for an exchange."""
        self._connector.start(self, exchange)

    def put(self, connection: UpstreamConnection, now: float) -> None:
        """Keep a connection whose exchange is over."""
        if not self._open or len(self._idle) >= self.settings.pool_size:
            connection.close()
            return
        connection.idle_since = now
        self._idle.append(connection)

    def forget(self, connection: UpstreamConnection) -> None:
        """A connection was closed."""
        self.connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def sweep(self, now: float) -> None:
        """Close connections unused for long; the oldest are at the front."""
        while self._idle and now - self._idle[0].idle_since >= self.settings.pool_idle_s:
            self._idle[0].close()

    def close(self) -> None:
        """See leases.Pool."""
        self._open = False
        for connection in list(self._idle):
            connection.close()

    def reopen(self) -> None:
        """See leases.Pool."""
        self._open = True

    def cut(self) -> None:
        """See leases.Pool."""
        self._open = False
        for connection in list(self.connections):
            connection.cut()
