"""Bodies of messages: where each ends, found while its bytes pass through (RFC 9112, 6 and 7).

A framing is fed what arrives and gives back what may go on and what follows the message. It never recodes:
chunks go through byte for byte, extensions and trailers included, once they have been found to be
well-formed; a chunk-size line is held back until it is complete, so that the other side never sees the
beginning of a malformed one. Only for HTTP/1.0 clients, who do not know chunks, does `Chunked(decode=True)`
give the payload alone.
"""

import re
from enum import Enum, auto
from typing import Final, Protocol

CHUNKED: Final = -1
"""In place of a length: the body is chunked."""

UNTIL_CLOSE: Final = -2
"""In place of a length: the body lasts until the connection closes; answers only."""

MAX_CHUNK_LINE: Final = 4096
"""A chunk-size line with its extensions, in bytes; nothing in use comes near it."""

MAX_TRAILERS: Final = 16 << 10
"""The trailer section in bytes."""

_TCHAR: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
FIELD_LINES: Final = rb"(?:" + _TCHAR + rb"++:[\t -~\x80-\xff]*+\r\n)*+"
"""Field lines with their line ends, any number, as a regular expression: the same in heads and trailers."""

# RFC 9112, 7.1. Fifteen digits stay below 2**63. Extensions may hold any visible text, which cannot end the
# line early.
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*+;[\t -~\x80-\xff]*+)?\r\n")
_CHUNK_START: Final = re.compile(rb"[0-9A-Fa-f]{0,15}(?:[ \t]*+(?:;[\t -~\x80-\xff]*+)?)?\r?")
_TRAILERS: Final = re.compile(FIELD_LINES + rb"\r\n")
# A trailer must not pass for a field that framed or routed the message (RFC 9110, 6.5.1), nor forge its
# origin.
_FORBIDDEN: Final = re.compile(
    rb"(?:^|\n)(?:content-length|transfer-encoding|host|connection|upgrade|te|trailer|authorization|set-cookie|cookie"
    rb"|forwarded|x[-_]forwarded[^:]*|x[-_]real[-_]ip|x[-_]request[-_]id):",
    re.IGNORECASE,
)


class BadFraming(ValueError):
    """A body that does not end where its sender may think it does; the message says why."""


class Framing(Protocol):
    """How one body ends."""

    done: bool
    """Whether the whole message has been fed."""

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """What of the message may go on, and what follows it (empty unless `done`). Raises BadFraming."""

    def complete_at_end(self) -> bool:
        """Whether the message may end where the connection did."""


class Length:
    """A body of a known number of bytes."""

    __slots__ = ("done", "remaining")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """See Framing.feed; this one never raises."""
        size = len(data)
        if size < self.remaining:
            self.remaining -= size
            return data, b""
        self.done = True
        if size == self.remaining:
            self.remaining = 0
            return data, b""
        split, self.remaining = self.remaining, 0
        return data[:split], data[split:]

    def complete_at_end(self) -> bool:
        """Whether all of it has come."""
        return self.done


class UntilClose:
    """A body that ends with its connection."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """All of it goes on."""
        return data, b""

    def complete_at_end(self) -> bool:
        """Always: nobody can tell whether more should have come."""
        return True


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    TRAILERS = auto()


class Chunked:
    """A chunked body. With `decode`, what goes on is its payload alone. `payload_bytes` counts that in either
    case.
    """

    __slots__ = ("_decode", "_held", "_remaining", "_state", "done", "payload_bytes")

    def __init__(self, *, decode: bool = False) -> None:
        self.done = False
        self.payload_bytes = 0
        self._decode = decode
        self._state = _State.SIZE
        self._held = b""  # of a line that is not complete
        self._remaining = 0  # of a chunk, its final CRLF included

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """See Framing.feed."""
        if self._held:
            data, self._held = b"%b%b" % (self._held, data), b""
        position = 0
        payload: list[bytes] = []
        end = len(data)
        while position < end and not self.done:
            if self._state is _State.DATA:
                following = self._pass_data(data, position)
                if self._decode:
                    payload.append(self._payload(data, position, following))
            elif self._state is _State.SIZE:
                following = self._read_size(data, position)
            else:
                following = self._read_trailers(data, position)
            if following == position:  # the line is not complete
                self._held = data[position:]
                break
            position = following
        rest = data[position:] if self.done else b""
        if self._decode:
            return b"".join(payload), rest
        return (data if position == end else data[:position]), rest

    def complete_at_end(self) -> bool:
        """Whether the last chunk and the trailers have come."""
        return self.done

    def _pass_data(self, data: bytes, position: int) -> int:
        """Pass what is there of a chunk and of the CRLF behind it."""
        taken = min(self._remaining, len(data) - position)
        for offset, expected in ((2, b"\r"), (1, b"\n")):
            at = position + self._remaining - offset
            if position <= at < position + taken and data[at : at + 1] != expected:
                raise BadFraming("a chunk is longer than its size")
        self._remaining -= taken
        if self._remaining == 0:
            self._state = _State.SIZE
        return position + taken

    def _payload(self, data: bytes, position: int, following: int) -> bytes:
        """The part of `data[position:following]` that is not the CRLF behind a chunk."""
        framing = max(0, 2 - self._remaining)
        return data[position : max(position, following - framing)]

    def _read_size(self, data: bytes, position: int) -> int:
        match = _CHUNK.match(data, position)
        if match is None:
            start = _CHUNK_START.match(data, position)
            if start is None or start.end() != len(data) or len(data) - position > MAX_CHUNK_LINE:
                raise BadFraming("a chunk size is malformed")
            return position
        if match.end() - position > MAX_CHUNK_LINE:
            raise BadFraming("a chunk size line is too long")
        size = int(match[1], 16)
        self.payload_bytes += size
        if size:
            self._remaining = size + 2
            self._state = _State.DATA
        else:
            self._state = _State.TRAILERS
        return match.end()

    def _read_trailers(self, data: bytes, position: int) -> int:
        """Read the trailer section whole: it goes on only when all of it is well-formed."""
        match = _TRAILERS.match(data, position)
        if match is None:
            if len(data) - position > MAX_TRAILERS:
                raise BadFraming("the trailer section is too long")
            lines_end = data.rfind(b"\n", position) + 1
            if b"\r\n\r\n" in data[position:] or not _lines_only(data, position, lines_end):
                raise BadFraming("a trailer field is malformed")
            return position
        if match.end() - position > MAX_TRAILERS:
            raise BadFraming("the trailer section is too long")
        if _FORBIDDEN.search(data[position : match.end()]):
            raise BadFraming("a field is not allowed as a trailer")
        self.done = True
        return match.end()


_LINES: Final = re.compile(FIELD_LINES)


def _lines_only(data: bytes, start: int, stop: int) -> bool:
    """Whether the complete lines so far are fields."""
    return stop <= start or _LINES.fullmatch(data, start, stop) is not None


def of_body(length: int, *, decode: bool = False) -> Framing:
    """The framing for a length in bytes, CHUNKED or UNTIL_CLOSE."""
    if length >= 0:
        return Length(length)
    return Chunked(decode=decode) if length == CHUNKED else UntilClose()
