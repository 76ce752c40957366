"""Connections of clients: requests read from them, one after the other, and answers written.

The transport may be TCP or TLS: nothing here depends on it. A connection is either reading a head, or has an
exchange (which may have become an upgraded connection), or is closing. When it closes on a client that may
still be sending, it first shuts its own direction and reads on for a while, because closing at once would
make the client's kernel throw away the answer (RFC 9112, 9.6).
"""

import asyncio
import logging
import socket
import struct
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, cast

from tenement.proxy import forwarded
from tenement.proxy.announced import peer_of
from tenement.proxy.exchange import Exchange
from tenement.proxy.guards import Guard
from tenement.proxy.request_head import BadRequest, Fields, RequestHead, check_part, parse

if TYPE_CHECKING:
    from tenement.proxy.worker import Worker

log = logging.getLogger(__name__)

# Of no longer head is it remembered what it says, so that idle connections stay small.
_REMEMBERED_BYTES: Final = 4096
# The state in which a reset leaves a socket (enum in Linux's net/tcp_states.h).
_TCP_CLOSE: Final = 7


class ClientConnection:
    """One connection of a client: an asyncio.Protocol by its methods.

    It does not derive from that class, since only a class without foreign ancestors is compiled to a struct.
    """

    __slots__ = (
        "_buffer",
        "_closing",
        "_deadline",
        "_ended",
        "_exchange",
        "_held_back",
        "_in_loop",
        "_linger_bytes",
        "_partial",
        "_patience_s",
        "_previous",
        "_reads",
        "_relayed",
        "_relayed_head",
        "_scheme",
        "_transport",
        "_worker",
        "body_is_paused",
        "guard",
        "hsts",
        "peer",
        "secure",
        "trusted",
        "write",
    )

    guard: Guard
    hsts: bytes
    secure: bool
    write: Callable[[bytes], None]

    def __init__(self, worker: "Worker", scheme: bytes, peer: str) -> None:
        """`peer` is the client's address, "" to take it from the connection."""
        self._worker = worker
        self._scheme = scheme
        self._exchange: Exchange | None = None
        self._buffer = b""
        self._partial = False
        self._previous: RequestHead | None = None
        self._in_loop = False
        self._closing = False
        self._ended = False
        self._reads = True
        self._held_back = False
        self._linger_bytes = 0
        self._relayed = b""
        self._relayed_head: RequestHead | None = None
        self.trusted = False
        self.body_is_paused = False
        self.peer = peer

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        self.write = self._transport.write
        worker = self._worker
        worker.watch()
        settings = worker.settings
        self._transport.set_write_buffer_limits(settings.write_high_bytes, settings.write_low_bytes)
        self.peer = self.peer or peer_of(transport)
        local = transport.get_extra_info("sockname")
        if isinstance(local, tuple) and local[0].removeprefix("::ffff:") == settings.source_address:
            # The address that apps are connected from, and so the one on the loopback that tenants may
            # answer. Nobody else has a reason to come to it.
            self._closing = True
            self._transport.abort()
        self.trusted = self.peer in worker.trusted
        self.guard = worker.tls.guard(transport.get_extra_info("ssl_object"))
        self.secure = self._scheme == b"https"
        self.hsts = b"\r\n%b" % worker.tls.hsts if self.secure and worker.tls.hsts else b""
        self._patience_s = settings.head_timeout_s
        self._deadline = worker.now + self._patience_s
        worker.add_client(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        exchange = self._exchange
        if exchange is None:
            if self._closing:
                self._discard(data)
            elif self._partial:
                self._read_more(data)
            else:
                self._read_heads(data)
        elif exchange.tunnel:
            exchange.client_sent(data)
        elif exchange.takes_body and not self._buffer:
            rest = exchange.client_body(data)
            if rest:
                self._keep(rest)
        else:
            self._keep(data)

    def eof_received(self) -> bool:
        """See asyncio.Protocol. A client may shut its sending side and wait for the answer."""
        self._ended = True
        if self._exchange is None:
            return False
        return self._exchange.client_ended()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._closing = True
        self._worker.remove_client(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_lost()

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self._held_back = True
        if self._exchange is not None:
            self._exchange.client_paused()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._held_back = False
        if self._exchange is not None:
            self._exchange.client_resumed()

    # What the worker calls

    @property
    def idle(self) -> bool:
        """Whether it carries nothing, not even the beginning of a request."""
        return self._exchange is None and not self._partial and not self._closing

    @property
    def unsent_bytes(self) -> int:
        """What is written and not yet taken by the kernel."""
        return self._transport.get_write_buffer_size()

    @property
    def kept_bytes(self) -> int:
        """What was read and cannot be used yet."""
        return len(self._buffer)

    @property
    def is_gone(self) -> bool:
        """Whether the client reset a connection that is not being read, where nothing else would tell."""
        sock = self._transport.get_extra_info("socket")
        if self._reads or sock is None:
            return False
        try:
            return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE)
        except OSError:
            return False  # Not TCP.

    def sweep(self, now: float) -> None:
        """Look at the deadlines."""
        if self._exchange is not None:
            self._exchange.sweep(now)
        elif now >= self._deadline:
            if self._closing:
                self._transport.abort()
            elif self._partial:
                self._refuse(BadRequest(408, "The request's head took too long"))
            else:
                self._closing = True
                self._transport.close()

    def drain(self) -> None:
        """Close if idle for a while; the next request, or the one in flight, will close the connection."""
        if self.idle:
            self._deadline += self._worker.settings.drain_idle_s - self._patience_s
            self.sweep(monotonic())

    def abort(self) -> None:
        """Close now, whatever it carries."""
        self._transport.abort()

    def turn_away(self) -> None:
        """Answer that there are too many connections."""
        self._refuse(BadRequest(503, "Too many connections"))

    # What the exchange calls

    def relay(self, head: RequestHead, request_id: bytes) -> bytes:
        """The head that goes on to the app: it also tells where the request came from, and its id."""
        if head is not self._relayed_head:
            self._relayed = head.relay(self._origin(head.fields))
            self._relayed_head = head if head is self._previous else None
        return b"".join((self._relayed, request_id, b"\r\n\r\n"))

    def feed_body(self) -> None:
        """Pass on what was read of the body before the exchange could take it."""
        exchange = self._exchange
        if exchange is None:
            return
        data, self._buffer = self._buffer, b""
        if data:
            self._buffer = exchange.client_body(data)
        self._adjust_reading()

    def take_buffered(self) -> bytes:
        """What was read behind the request: on an upgraded connection it is the app's."""
        data, self._buffer = self._buffer, b""
        self._adjust_reading()
        return data

    def pause_body(self) -> None:
        """Read no more for now."""
        self.body_is_paused = True
        self._adjust_reading()

    def resume_body(self) -> None:
        """Read on."""
        self.body_is_paused = False
        self._adjust_reading()

    def write_eof(self) -> None:
        """Close the direction to the client of an upgraded connection."""
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()
        else:
            self._transport.close()

    def finished(self, *, keep_alive: bool, unread: bool) -> None:
        """The answer is written: go on to the next request, or close. `unread`: there may be more of the
        body.
        """
        self._exchange = None
        self.body_is_paused = False
        if not keep_alive:
            self._close(linger=unread or bool(self._buffer))
            return
        worker = self._worker
        self._patience_s = worker.idle_timeout_s
        self._deadline = worker.now + self._patience_s
        if self._buffer:
            if not self._in_loop:
                self._read_heads(self._buffer)
        elif self._ended:
            self._close(linger=False)
            return
        if not self._reads:
            self._adjust_reading()

    def break_off(self, *, reset: bool) -> None:
        """Close in the middle of an answer; `reset` if its end would otherwise look like the answer's."""
        self._exchange = None
        self._closing = True
        self._deadline = self._worker.now + self._worker.settings.linger_s
        if reset and self.secure:
            self._transport.abort()  # A proper end of TLS would say that the answer was complete.
            return
        if reset:
            sock = self._transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.close()

    # Private

    def _read_heads(self, data: bytes) -> None:
        """Begin with the requests in `data`, as far as they can be answered at once."""
        settings = self._worker.settings
        self._in_loop = True
        while True:
            try:
                head = parse(
                    data,
                    settings.max_line_bytes,
                    self._worker.max_head_bytes,
                    settings.max_fields,
                    self._previous,
                )
            except BadRequest as error:
                self._refuse(error)
                break
            if head is None:
                self._buffer = data
                self._partial = True
                self._deadline = monotonic() + settings.head_timeout_s
                break
            self._partial = False
            if head is not self._previous:
                self._previous = head if head.sent and head.end <= _REMEMBERED_BYTES else None
            self._buffer = data[head.end :] if head.end < len(data) else b""
            exchange = self._exchange = Exchange(self._worker, self, head)
            if self._held_back:
                exchange.client_paused()
            exchange.begin()
            if not self._goes_on():
                break
            data = self._buffer
        self._in_loop = False
        if self._buffer:
            self._adjust_reading()
        if self._ended and self._exchange is None and not self._closing:
            self._close(linger=False)

    def _goes_on(self) -> bool:
        """Whether the exchange that has just begun is over, and another request waits to be begun.

        Asked in a method of its own: where the exchange was set the compiler takes for granted that it is.
        """
        return self._exchange is None and not self._closing and bool(self._buffer)

    def _origin(self, fields: Fields) -> bytes:
        """The fields that tell the app where the request came from."""
        if fields.origin and self.trusted:
            return forwarded.fields_from_proxy(
                self.peer, self._scheme, fields.host, fields.origin, self._worker.trusted
            )
        return forwarded.fields(self.peer, self._scheme, fields.host)

    def _read_more(self, data: bytes) -> None:
        """Read on in a head that came in pieces; what was looked at before is not looked at again."""
        seen = len(self._buffer)
        data = b"%b%b" % (self._buffer, data)
        deadline = self._deadline
        if data.find(b"\r\n\r\n", max(0, seen - 3)) >= 0:
            self._partial = False
            self._buffer = b""
            self._read_heads(data)
            if self._partial:
                self._deadline = min(deadline, self._deadline)
            return
        self._buffer = data
        try:
            check_part(data, self._worker.settings.max_line_bytes, self._worker.max_head_bytes, seen)
        except BadRequest as error:
            self._refuse(error)

    def _keep(self, data: bytes) -> None:
        """Keep what cannot be used yet."""
        self._buffer = b"%b%b" % (self._buffer, data)
        self._adjust_reading()

    def _adjust_reading(self) -> None:
        """Read as long as there is a use for it, or little enough is kept. Reading also tells of clients that
        leave.
        """
        settings = self._worker.settings
        exchange = self._exchange
        waiting = exchange is not None and not exchange.request_done
        limit = settings.max_waiting_bytes if waiting else settings.max_pipelined_bytes
        reads = (
            not self._closing and not self.body_is_paused and (exchange is None or len(self._buffer) <= limit)
        )
        if self._closing or self._ended or reads == self._reads or self._transport.is_closing():
            return
        self._reads = reads
        if reads:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _refuse(self, error: BadRequest) -> None:
        """Answer a request that cannot be one, and close."""
        log.debug("%s: refused with %d: %s", self.peer, error.status, error.reason)
        self._partial = False
        self._buffer = b""
        self.write(self._worker.pages.answer(error.status, close=True, detail=error.reason))
        self._close(linger=True)

    def _close(self, *, linger: bool) -> None:
        """Close when all is written; with `linger`, first let the client finish what it is sending."""
        self._closing = True
        self._buffer = b""
        settings = self._worker.settings
        if self._transport.is_closing():
            return
        if linger and not self._ended and self._transport.can_write_eof():
            self._deadline = monotonic() + settings.linger_s
            self._linger_bytes = settings.linger_bytes
            self._transport.write_eof()
            if not self._reads:
                self._reads = True
                self._transport.resume_reading()
            return
        self._deadline = monotonic() + settings.stalled_client_s
        self._transport.close()

    def _discard(self, data: bytes) -> None:
        """Drop what a client sends to a connection that is closing."""
        self._linger_bytes -= len(data)
        if self._linger_bytes <= 0:
            self._transport.abort()
