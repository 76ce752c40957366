"""Heads of an app's answers: read as strictly as those of requests, since apps are tenants and not trusted
either.

An app that could make the proxy see the end of an answer where the client does not, would write other answers
(response splitting). So duplicate or doubtful framing, bare line feeds and malformed fields are not passed
on.
"""

import re
from typing import Final

from tenement.proxy.framing import CHUNKED, FIELD_LINES, UNTIL_CLOSE
from tenement.proxy.request_head import without

_HEAD: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9][0-9])((?: [\t -~\x80-\xff]*+)?)(\r\n" + FIELD_LINES + rb")\r\n"
)
_SPECIAL: Final = re.compile(
    rb"\r\n(connection|keep-alive|proxy-connection|upgrade|content-length|transfer-encoding|date)"
    rb":[ \t]*+([^\r]*)"
)
_PLAIN_OPTIONS: Final = frozenset({b"close", b"keep-alive", b"upgrade", b"proxy-connection", b""})
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_KEPT: Final = _FRAMING | {b"date"}
_MAX_OPTIONS: Final = 16
_BEGINNING: Final = b"HTTP/1."
_BROKEN: Final = re.compile(rb"(?<!\r)\n")
_TIMEOUT: Final = re.compile(rb"timeout=([0-9]{1,6})")


class BadResponse(Exception):
    """An answer that cannot be passed on; the message says why."""


class ResponseHead:
    """A head that was accepted.

    `length` is the body's in bytes, CHUNKED or UNTIL_CLOSE. `end` is the head's size. `verbatim` says that it
    may go on as it came, to a client whose connection stays; `dated`, that it has a Date. `persistent` says
    whether the app keeps its connection, `keep_alive_s` for how long it says it does (None: it does not say).
    `upgrade` is the field's value in lower case. `text` is the head itself if the next one may be the same to
    the byte, else empty.
    """

    __slots__ = (
        "_options",
        "dated",
        "end",
        "keep_alive_s",
        "length",
        "persistent",
        "status",
        "text",
        "upgrade",
        "verbatim",
    )

    def __init__(self, status: int, end: int, persistent: bool) -> None:
        self.status = status
        self.end = end
        self.persistent = persistent
        self.verbatim = persistent
        self.dated = False
        self.length = 0
        self.upgrade = b""
        self.keep_alive_s: int | None = None
        self.text = b""
        self._options: tuple[bytes, ...] = ()

    def relay(self, data: bytes, *, framed: bool = True) -> bytes:
        """What goes on to the client of the head `data`, without the line ends behind the last field.

        Without `framed` the fields that frame the body are left out, too: its end will be the connection's.
        """
        match = _HEAD.match(data)
        assert match is not None
        _, status, reason, lines = match.groups()
        low = lines.lower()
        cuts = [field.span() for field in _SPECIAL.finditer(low) if field[1] not in _KEPT]
        if not framed or self.status < 200 or self.status == 204:
            # RFC 9110, 8.6 and RFC 9112, 6.1: these have no such field, and who believes it waits for a body.
            cuts += [field.span() for field in _SPECIAL.finditer(low) if field[1] in _FRAMING]
        for option in self._options:
            if option not in _PLAIN_OPTIONS:
                cuts += [each.span() for each in re.finditer(rb"\r\n%b:[^\r]*" % re.escape(option), low)]
        return b"HTTP/1.1 %b%b%b" % (status, reason, without(lines, cuts))

    def follow_options(self, value: bytes) -> None:
        """Follow the Connection field (RFC 9110, 7.6.1). Raises BadResponse."""
        self._options += tuple(option.strip(b" \t") for option in value.split(b","))
        if len(self._options) > _MAX_OPTIONS:
            raise BadResponse("its Connection field has too many options")
        if not _FRAMING.isdisjoint(self._options):
            raise BadResponse("its Connection field names the field that frames it")
        if b"close" in self._options:
            self.persistent = False


def parse(
    data: bytes, max_head: int, *, to_head: bool, previous: ResponseHead | None = None
) -> ResponseHead | None:
    """The head that `data` begins with; None if it is not complete. `to_head`: it answers HEAD.

    `max_head` is its largest size in bytes. Raises BadResponse. `previous` is a head with a `text`, from the
    same connection: the same text means the same, and is not read again.
    """
    if previous is not None and not to_head and data.startswith(previous.text):
        return previous
    match = _HEAD.match(data)
    if match is None:
        _check_part(data, max_head)
        return None
    minor, status, _, lines = match.groups()
    end = match.end()
    if end > max_head:
        raise BadResponse("its head is too long")
    head = ResponseHead(int(status), end, minor == b"1")
    length: int | None = None
    chunked = False
    for name, value in _SPECIAL.findall(lines.lower()):
        if name == b"content-length":
            if length is not None:
                raise BadResponse("it has two Content-Length fields")
            value = value.rstrip(b" \t")
            if not value.isdigit() or len(value) > 18:
                raise BadResponse("its Content-Length is not a number")
            length = int(value)
        elif name == b"transfer-encoding":
            if chunked or minor == b"0" or value.rstrip(b" \t") != b"chunked":
                raise BadResponse("its transfer coding is not chunked")
            chunked = True
        elif name == b"date":
            head.dated = True
        elif name != b"connection" or value != b"keep-alive":
            head.verbatim = False
            if name == b"connection":
                head.follow_options(value)
            elif name == b"upgrade":
                head.upgrade = value.strip(b" \t")
            elif name == b"keep-alive" and (timeout := _TIMEOUT.search(value)):
                head.keep_alive_s = int(timeout[1])
    if length is not None and not chunked and head.status == 200 and not to_head:
        head.length = length
        if head.verbatim:
            head.text = data[:end]
    else:
        _frame(head, length, chunked, to_head=to_head)
    return head


def _frame(head: ResponseHead, length: int | None, chunked: bool, *, to_head: bool) -> None:
    """Tell where the body ends (RFC 9112, 6.3). Raises BadResponse."""
    if length is not None and chunked:
        raise BadResponse("it has both Content-Length and Transfer-Encoding")
    status = head.status
    if status >= 200 and status != 204 and status != 304 and not to_head:
        if length is not None:
            head.length = length
        elif chunked:
            head.length = CHUNKED
        else:
            head.length = UNTIL_CLOSE
            head.persistent = False
    elif length is not None or chunked:
        # There is no body. An app that sends one in spite of that must not reach the next answer.
        head.persistent = False
        head.verbatim = head.verbatim and status >= 200 and status != 204
        if status == 101:
            raise BadResponse("it switches protocols and announces a body")


def _check_part(data: bytes, max_head: int) -> None:
    """Refuse what cannot become a head, whatever follows. Raises BadResponse."""
    if len(data) > max_head:
        raise BadResponse("its head is too long")
    if b"\r\n\r\n" in data or not _BEGINNING.startswith(data[: len(_BEGINNING)]) or _BROKEN.search(data):
        raise BadResponse("its head is malformed")
