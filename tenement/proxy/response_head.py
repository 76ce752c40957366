"""Heads of an app's answers: read as strictly as those of requests, since apps are tenants and not trusted
either.

An app that could make the proxy see the end of an answer where the client does not, would write other answers
(response splitting). So duplicate or doubtful framing, bare line feeds and malformed fields are not passed
on.
"""

import re
from typing import Final

from tenement.proxy.framing import CHUNKED, FIELD_LINES, UNTIL_CLOSE

_HEAD: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9][0-9])((?: [\t -~\x80-\xff]*+)?)(\r\n" + FIELD_LINES + rb")\r\n"
)
_SPECIAL: Final = re.compile(
    rb"\r\n(connection|keep-alive|proxy-connection|upgrade|content-length|transfer-encoding):[ \t]*+([^\r]*)"
)
_PLAIN_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade", b"proxy-connection", b""})
_NOT_AN_OPTION: Final = frozenset({b"content-length", b"transfer-encoding"})
_MAX_OPTIONS: Final = 16
_TIMEOUT: Final = re.compile(rb"timeout=([0-9]{1,6})")


class BadResponse(Exception):
    """An answer that cannot be passed on; the message says why."""


class ResponseHead:
    """A head that was accepted.

    `length` is the body's in bytes, CHUNKED or UNTIL_CLOSE. `end` is the head's size. `relay` is what goes on
    to the client, without the line ends behind the last field, or None if that is the head as it came.
    `persistent` says whether the app keeps the connection, `keep_alive_s` for how long it says it does (None:
    it does not say). `upgrade` is the field's value in lower case.
    """

    __slots__ = ("end", "keep_alive_s", "length", "persistent", "relay", "status", "upgrade")

    def __init__(self, status: int, end: int, persistent: bool) -> None:
        self.status = status
        self.end = end
        self.persistent = persistent
        self.length = 0
        self.relay: bytes | None = None
        self.upgrade = b""
        self.keep_alive_s: int | None = None


def parse(data: bytes, max_head: int, *, to_head: bool) -> ResponseHead | None:
    """The head that `data` begins with; None if it is not complete. `to_head`: it answers HEAD. Raises
    BadResponse.
    """
    match = _HEAD.match(data)
    if match is None:
        if len(data) > max_head:
            raise BadResponse("its head is too long")
        if b"\r\n\r\n" in data or not b"HTTP/1.".startswith(data[:7]) or re.search(rb"(?<!\r)\n", data):
            raise BadResponse("its head is malformed")
        return None
    minor, status_text, reason, lines = match.groups()
    if match.end() > max_head:
        raise BadResponse("its head is too long")
    status = int(status_text)
    head = ResponseHead(status, match.end(), minor == b"1")
    length: int | None = None
    chunked = False
    cuts: list[tuple[int, int]] | None = None
    options: list[bytes] = []
    low = lines.lower()
    for field in _SPECIAL.finditer(low):
        name = field[1]
        if name == b"content-length":
            if length is not None:
                raise BadResponse("it has two Content-Length fields")
            length = _number(field[2])
        elif name == b"transfer-encoding":
            if chunked or minor == b"0" or field[2].rstrip(b" \t") != b"chunked":
                raise BadResponse("its transfer coding is not chunked")
            chunked = True
        else:
            cuts = [] if cuts is None else cuts
            cuts.append(field.span())
            if name == b"connection":
                options += [option.strip(b" \t") for option in field[2].split(b",")]
            elif name == b"upgrade":
                head.upgrade = field[2].strip(b" \t")
            elif name == b"keep-alive" and (timeout := _TIMEOUT.search(field[2])):
                head.keep_alive_s = int(timeout[1])
    if length is not None and chunked:
        raise BadResponse("it has both Content-Length and Transfer-Encoding")
    if options:
        cuts = _apply_options(head, low, options, cuts or [])
    if status < 200 or status == 204:
        # RFC 9110, 8.6 and RFC 9112, 6.1: these have neither, and a client that believes them would wait for
        # a body.
        if length is not None or chunked:
            if status == 101:
                raise BadResponse("it switches protocols and announces a body")
            head.persistent = False
            cuts = (cuts or []) + [each.span() for each in _FRAMING.finditer(low)]
    elif status == 304 or to_head:
        # The fields say what GET would bring. An app that sends a body in spite of them must not reach the
        # next answer.
        head.persistent = head.persistent and length is None and not chunked
    elif chunked:
        head.length = CHUNKED
    elif length is not None:
        head.length = length
    else:
        head.length = UNTIL_CLOSE
        head.persistent = False
    if cuts is not None or minor == b"0":
        head.relay = b"HTTP/1.1 " + status_text + reason + _without(lines, cuts or [])
    return head


_FRAMING: Final = re.compile(rb"\r\n(?:content-length|transfer-encoding):[^\r]*")


def _number(value: bytes) -> int:
    value = value.rstrip(b" \t")
    if not value.isdigit() or len(value) > 18:
        raise BadResponse("its Content-Length is not a number")
    return int(value)


def _apply_options(
    head: ResponseHead, low: bytes, options: list[bytes], cuts: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Follow the Connection field: whether the connection stays, and the fields it names (RFC 9110,
    7.6.1).
    """
    if len(options) > _MAX_OPTIONS:
        raise BadResponse("its Connection field has too many options")
    if b"close" in options:
        head.persistent = False
    for option in options:
        if option in _PLAIN_OPTIONS:
            continue
        if option in _NOT_AN_OPTION:
            raise BadResponse("its Connection field names the field that frames it")
        cuts += [each.span() for each in re.finditer(rb"\r\n" + re.escape(option) + rb":[^\r]*", low)]
    return cuts


def _without(lines: bytes, cuts: list[tuple[int, int]]) -> bytes:
    """The field lines without those at `cuts`, and without the last line end."""
    parts: list[bytes] = []
    position = 0
    for start, stop in sorted(set(cuts)):
        parts.append(lines[position:start])
        position = stop
    parts.append(lines[position:-2])
    return b"".join(parts)
