"""TLS between a TCP transport and a client's connection, to which it is a transport like any other.

The event loop's own TLS drops what OpenSSL has to say when a handshake fails, so that a refused name would
look like a broken network. Here alerts are sent, handshakes are counted and bounded, and closing one
direction of a connection works as with TCP: close_notify ends what we send, and what the client still sends
is read (RFC 8446, 6.1).
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

HANDSHAKE_TIMEOUT_S: Final = 15.0
HANDSHAKES_MAX: Final = 2000
"""Handshakes under way in a worker; one more ends the oldest, which is the likeliest to have stalled."""

_READ_BYTES: Final = 256 << 10


class Handshakes:
    """The handshakes under way. `limit` bounds them."""

    def __init__(self, limit: int = HANDSHAKES_MAX) -> None:
        self._limit = limit
        self._under_way: dict[TlsConnection, None] = {}
        self._none_left = asyncio.Event()
        self._none_left.set()

    def add(self, connection: "TlsConnection") -> None:
        """One more begins."""
        if len(self._under_way) >= self._limit:
            oldest = next(iter(self._under_way))
            # Now, and not when TCP says so: the next one must end another.
            del self._under_way[oldest]
            oldest.abort()
        self._under_way[connection] = None
        self._none_left.clear()

    def remove(self, connection: "TlsConnection") -> None:
        """One has ended, well or badly."""
        self._under_way.pop(connection, None)
        if not self._under_way:
            self._none_left.set()

    async def over(self) -> None:
        """Wait until none is under way."""
        await self._none_left.wait()


class TlsConnection(asyncio.Protocol, asyncio.Transport):
    """One connection: to TCP it is the protocol, to the client's connection the transport.

    `make_client` is called when the handshake is done, and gives who receives what was decrypted.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        handshakes: Handshakes,
        make_client: Callable[[], asyncio.Protocol],
        timeout_s: float = HANDSHAKE_TIMEOUT_S,
    ) -> None:
        self._context = context
        self._handshakes = handshakes
        self._make_client = make_client
        self._timeout_s = timeout_s
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._client: asyncio.Protocol | None = None
        self._tcp: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._sent_end = False
        self._heard_end = False
        self._reading_paused = False

    # What TCP calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._tcp = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._tcp.abort)
        self._handshakes.add(self)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._incoming.write(data)
        if self._client is not None or self._shake_hands():
            self._read()

    def eof_received(self) -> bool:
        """See asyncio.Protocol. A client that ends TCP without close_notify has ended nevertheless."""
        return self._client is not None and self._ended(self._client)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._closing = True
        self._handshake_over()
        if self._client is not None:
            self._client.connection_lost(exc)

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._client is not None:
            self._client.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._client is not None:
            self._client.resume_writing()

    # What the client's connection calls; see asyncio.Transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the connection; `ssl_object` is its TLS."""
        return self._tls if name == "ssl_object" else self._tcp.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._closing or self._sent_end or not data:
            return
        try:
            left = memoryview(data)
            while left:
                left = left[self._tls.write(left) :]
        except ssl.SSLError:
            self.abort()
            return
        self._flush()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio.WriteTransport."""
        self._tcp.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Encrypted bytes that the kernel has not taken."""
        return self._tcp.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        """Always: see the top of the module."""
        return True

    def write_eof(self) -> None:
        """Say that no more will be sent, and read on."""
        if not self._closing and self._say_end() and self._tcp.can_write_eof():
            self._tcp.write_eof()

    def pause_reading(self) -> None:
        """See asyncio.ReadTransport."""
        self._reading_paused = True
        if not self._tcp.is_closing():
            self._tcp.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio.ReadTransport. What was decrypted already comes first, though not from within this
        call.
        """
        self._reading_paused = False
        asyncio.get_running_loop().call_soon(self._read)
        if not self._tcp.is_closing():
            self._tcp.resume_reading()

    def is_closing(self) -> bool:
        """Whether it is closed or about to be."""
        return self._closing or self._tcp.is_closing()

    def close(self) -> None:
        """Send what is to be sent, say that this was all, and close."""
        if not self._closing:
            self._say_end()
            self._closing = True
            self._tcp.close()

    def abort(self) -> None:
        """Close now; the client can tell that this was not the end."""
        self._closing = True
        self._tcp.abort()

    # Private

    def _shake_hands(self) -> bool:
        """Go on with the handshake; whether it is done."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError:
            self._fail()
            return False
        self._handshake_over()
        self._client = self._make_client()
        self._flush()
        self._client.connection_made(self)
        return True

    def _handshake_over(self) -> None:
        self._handshakes.remove(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self) -> None:
        """Decrypt what has come, as long as it is wanted."""
        client = self._client
        assert client is not None
        try:
            while not self._reading_paused and not self._tcp.is_closing() and not self._heard_end:
                data = self._tls.read(_READ_BYTES)
                if not data:
                    if not self._ended(client):
                        self.close()
                    break
                client.data_received(data)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            if not self._ended(client):
                self.close()
        except ssl.SSLError:
            self._fail()
            return
        self._flush()

    def _ended(self, client: asyncio.Protocol) -> bool:
        """The client has ended its direction, said once; whether the other stays open."""
        if self._heard_end:
            return not self._closing
        self._heard_end = True
        return bool(client.eof_received())

    def _say_end(self) -> bool:
        """Send close_notify, once; whether it was sent now."""
        if self._sent_end or self._client is None:
            return False
        self._sent_end = True
        # SSLWantReadError: it is said, and the client's own end has not come yet.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()
        return True

    def _fail(self) -> None:
        """Send the alert that says what was wrong, and close."""
        self._flush()
        self._closing = True
        self._tcp.close()

    def _flush(self) -> None:
        """Hand what is encrypted to TCP."""
        if self._outgoing.pending and not self._tcp.is_closing():
            self._tcp.write(self._outgoing.read())
