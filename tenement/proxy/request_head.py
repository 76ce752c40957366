"""Heads of requests: the strict reading of RFC 9112, and what of a head goes on to the app.

One regular expression with possessive quantifiers (so it takes linear time) accepts a whole head or none of
it. What it does not accept is refused and the connection closed: bare CR or LF, NUL, folded lines, a space
before the colon. Ambiguous framing is refused even where the RFC would let a server guess (two equal
Content-Length fields, a Transfer-Encoding besides a Content-Length), because the app may guess otherwise:
that difference is request smuggling.

Fields keep their order, case and duplicates. Left out on the way to the app are those that end at this hop
(RFC 9110, 7.6.1), and everything that claims where the request came from: `forwarded` writes that anew.
"""

import re
from typing import Final

from tenement.proxy.framing import CHUNKED, FIELD_LINES
from tenement.proxy.hosts import BadHost, fold

_TCHAR: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# An empty line in front is left over from sloppy clients' previous bodies (RFC 9112, 2.2).
_HEAD: Final = re.compile(
    rb"(?:\r\n)?+(" + _TCHAR + rb"++) ([!-~\x80-\xff]++) HTTP/1\.([01])(\r\n" + FIELD_LINES + rb")\r\n"
)
_LINE: Final = re.compile(rb"(?:\r\n)?+" + _TCHAR + rb"++ [!-~\x80-\xff]++ HTTP/([0-9])\.([0-9])\r\n")
# Nothing that follows can turn this into a head: refused at once instead of at the deadline.
_BROKEN: Final = re.compile(rb"(?<!\r)\n|\r[^\n]|\0")

# CGI and WSGI make the same variable of `X_Forwarded_For` as of `X-Forwarded-For`: it could carry a forged
# origin.
_SPECIAL: Final = re.compile(
    rb"\r\n(host|connection|keep-alive|proxy-connection|proxy-authorization|te|upgrade|http2-settings"
    rb"|content-length|transfer-encoding|expect"
    rb"|forwarded|x[-_]forwarded(?:[-_]" + _TCHAR + rb"*+)?|x[-_]real[-_]ip|x[-_]request[-_]id"
    rb"):[ \t]*+([^\r]*)"
)
_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"te",
        b"upgrade",
        b"http2-settings",
    }
)
# Options of Connection that name no field to be removed, or one that is removed anyway.
_PLAIN_OPTIONS: Final = _HOP_BY_HOP | {b"close", b""}
# Connection must not take these away from the app: it would route or frame the message differently.
_NOT_AN_OPTION: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})
_MAX_OPTIONS: Final = 16

_REQUEST_ID: Final = re.compile(rb"[0-9A-Za-z._:+/=-]{1,128}")
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?@]+)(.*)", re.DOTALL)
_ACCEPT: Final = re.compile(rb"\r\naccept:([^\r]*)", re.IGNORECASE)
_COOKIE: Final = re.compile(rb"\r\ncookie:([^\r]*)", re.IGNORECASE)
_IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})


class BadRequest(Exception):
    """A request that is refused before anything is asked of anybody; the connection closes after the
    answer.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class RequestHead:
    """A head that was accepted.

    `length` is the body's in bytes, or CHUNKED. `host` is the field as sent. `upgrade` is the field's value
    in lower case, empty if there is nothing to upgrade to. `origin` has the fields that claim where the
    request came from, names in lower case with dashes, values as sent. `relay` is what goes on, without the
    line ends behind the last field. `end` is the head's size, or where the body begins.
    """

    __slots__ = (
        "end",
        "expects_continue",
        "host",
        "keep_alive",
        "length",
        "lines",
        "method",
        "minor",
        "origin",
        "relay",
        "request_id",
        "target",
        "upgrade",
    )

    def __init__(self, method: bytes, target: bytes, minor: int, lines: bytes, end: int) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        self.lines = lines
        self.end = end
        self.host = b""
        self.length = 0
        self.keep_alive = minor == 1
        self.expects_continue = False
        self.upgrade = b""
        self.request_id = b""
        self.origin: list[tuple[bytes, bytes]] | None = None
        self.relay = b""

    @property
    def safe_to_repeat(self) -> bool:
        """Whether twice is the same as once (RFC 9110, 9.2.2), and it can be sent twice: it has no body."""
        return self.length == 0 and self.method in _IDEMPOTENT and not self.upgrade

    @property
    def accept(self) -> str:
        """The Accept field in lower case; empty if there is none."""
        match = _ACCEPT.search(self.lines)
        return match[1].decode("latin-1").strip().lower() if match else ""

    @property
    def cookies(self) -> bytes:
        """The Cookie field; empty if there is none."""
        match = _COOKIE.search(self.lines)
        return match[1].strip() if match else b""


def parse(data: bytes, max_line: int, max_head: int, max_fields: int) -> RequestHead | None:
    """The head that `data` begins with; None if it is not complete. Sizes are in bytes. Raises BadRequest."""
    match = _HEAD.match(data)
    if match is None:
        check_part(data, max_line, max_head)
        return None
    method, target, minor, lines = match.groups()
    end = match.end()
    if len(target) > max_line:
        raise BadRequest(414, "The request line is too long")
    if end > max_head or lines.count(b"\n") > max_fields + 1:
        raise BadRequest(431, "The request has too many fields, or they are too long")
    head = RequestHead(method, target, 1 if minor == b"1" else 0, lines, end)
    cuts, options = _read_fields(head)
    if target[0] != 0x2F or b"#" in target or method == b"CONNECT":
        _read_target(head)
        cuts = cuts or []
    if cuts is None and head.minor == 1:
        head.relay = data[match.start(1) : end - 4]
    else:
        head.relay = _rebuild(head, cuts or [], options)
    return head


def check_part(data: bytes, max_line: int, max_head: int, seen: int = 0) -> None:
    """Refuse what cannot become a head, whatever follows; `seen` bytes were checked before. Raises
    BadRequest.
    """
    stop = data.find(b"\r\n\r\n", max(2, seen - 3))
    if stop >= 0:
        data = data[: stop + 4]
    line_end = data.find(b"\r\n", 2)
    if (line_end if line_end >= 0 else len(data)) > max_line + 32:
        raise BadRequest(414, "The request line is too long")
    if len(data) > max_head:
        raise BadRequest(431, "The request's fields are too long")
    if _BROKEN.search(data, max(0, seen - 1)):
        raise BadRequest(400, "A line does not end in CR LF, or there is a NUL")
    if line_end >= 0 and line_end + 2 > seen:
        line = _LINE.match(data)
        if line is None:
            raise BadRequest(400, "The request line is malformed")
        if line[1] != b"1" or line[2] not in b"01":
            raise BadRequest(505, "Only HTTP/1.0 and HTTP/1.1 are spoken here")
    if stop >= 0:
        raise BadRequest(400, "A field is malformed")


def _read_fields(head: RequestHead) -> tuple[list[tuple[int, int]] | None, list[bytes]]:
    """Read the fields that matter here into `head`. Returns spans to leave out (None: none), and connection
    options.
    """
    lines = head.lines
    low = lines.lower()
    host: bytes | None = None
    cuts: list[tuple[int, int]] | None = None
    options: list[bytes] = []
    length: bytes | None = None
    coding: bytes | None = None
    for field in _SPECIAL.finditer(low):
        name = field[1]
        if name == b"host":
            if host is not None:
                raise BadRequest(400, "Host is given twice")
            host = lines[field.start(2) : field.end(2)]
        elif name == b"content-length":
            if length is not None:
                raise BadRequest(400, "Content-Length is given twice")
            length = field[2].rstrip(b" \t")
        elif name == b"transfer-encoding":
            if coding is not None:
                raise BadRequest(400, "Transfer-Encoding is given twice")
            coding = field[2].rstrip(b" \t")
        elif name == b"expect":
            head.expects_continue = head.minor == 1 and field[2].rstrip(b" \t") == b"100-continue"
        else:
            cuts = [] if cuts is None else cuts
            cuts.append(field.span())
            if name == b"connection":
                options += [option.strip(b" \t") for option in field[2].split(b",")]
            elif name == b"upgrade":
                head.upgrade = (head.upgrade + b"," if head.upgrade else b"") + field[2].strip(b" \t")
            elif name == b"te":
                options.append(b"te:trailers") if b"trailers" in field[2] else None
            elif name not in _HOP_BY_HOP:
                _read_origin(
                    head, name.replace(b"_", b"-"), lines[field.start(2) : field.end(2)].rstrip(b" \t")
                )
    if host is None:
        raise BadRequest(400, "Host is missing")
    head.host = host
    if length is not None or coding is not None:
        head.length = _body_length(head, length, coding)
    if options:
        cuts = _apply_options(head, low, options, cuts or [])
    elif head.upgrade:
        head.upgrade = b""  # Not asked of this hop.
    return cuts, options


def _read_origin(head: RequestHead, name: bytes, value: bytes) -> None:
    if name == b"x-request-id":
        if not head.request_id and _REQUEST_ID.fullmatch(value):
            head.request_id = value
        return
    if head.origin is None:
        head.origin = []
    head.origin.append((name, value))


def _body_length(head: RequestHead, length: bytes | None, coding: bytes | None) -> int:
    """RFC 9112, 6.3, and in doubt nothing: each of these has let a second request through somewhere."""
    if coding is None:
        assert length is not None
        if not length.isdigit() or len(length) > 18:
            raise BadRequest(400, "Content-Length is not a number")
        return int(length)
    if length is not None:
        raise BadRequest(400, "Content-Length and Transfer-Encoding exclude each other")
    if head.minor == 0:
        raise BadRequest(400, "Transfer-Encoding does not exist in HTTP/1.0")
    if coding != b"chunked":
        raise BadRequest(400, "The only transfer coding known here is chunked")
    return CHUNKED


def _apply_options(
    head: RequestHead, low: bytes, options: list[bytes], cuts: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Follow the Connection field: what it says of this connection, and the fields it names (RFC 9110,
    7.6.1).
    """
    if len(options) > _MAX_OPTIONS:
        raise BadRequest(400, "Connection has too many options")
    if b"close" in options:
        head.keep_alive = False
    elif head.minor == 0:
        head.keep_alive = b"keep-alive" in options
    # An upgrade to h2c would put requests through that nobody here reads (and RFC 9113 dropped it).
    if b"upgrade" not in options or head.length or head.minor == 0 or b"h2c" in head.upgrade:
        head.upgrade = b""
    for option in options:
        if option in _PLAIN_OPTIONS or option == b"te:trailers":
            continue
        if option in _NOT_AN_OPTION:
            raise BadRequest(400, "Connection names a field that must reach the app")
        cuts += [each.span() for each in re.finditer(rb"\r\n" + re.escape(option) + rb":[^\r]*", low)]
    return cuts


def _read_target(head: RequestHead) -> None:
    """Bring a target that is not a path into the form apps know (RFC 9112, 3.2)."""
    if head.method == b"CONNECT":
        raise BadRequest(501, "CONNECT is not offered here")
    if b"#" in head.target:
        raise BadRequest(400, "The target has a fragment")
    if head.target == b"*" and head.method == b"OPTIONS":
        return
    absolute = _ABSOLUTE.fullmatch(head.target)
    if absolute is None:
        raise BadRequest(400, "The target is neither a path nor a URL")
    try:
        same = fold(absolute[1]) == fold(head.host)
    except BadHost as error:
        raise BadRequest(400, str(error)) from None
    if not same:
        raise BadRequest(400, "The target's host is not that of the Host field")
    path = absolute[2]
    if not path:
        head.target = b"*" if head.method == b"OPTIONS" else b"/"
    else:
        head.target = path if path[:1] == b"/" else b"/" + path


def _rebuild(head: RequestHead, cuts: list[tuple[int, int]], options: list[bytes]) -> bytes:
    """The request line and the fields without those at `cuts`, with the options that this hop asks of the
    next.
    """
    cuts = sorted(set(cuts))
    parts = [b"%b %b HTTP/1.1" % (head.method, head.target)]
    position = 0
    for start, stop in cuts:
        parts.append(head.lines[position:start])
        position = stop
    parts.append(head.lines[position:-2])
    if head.upgrade:
        parts.append(b"\r\nConnection: Upgrade\r\nUpgrade: " + _upgrade_as_sent(head))
    elif b"te:trailers" in options and b"te" in options:
        parts.append(b"\r\nConnection: TE\r\nTE: trailers")
    return b"".join(parts)


_UPGRADE: Final = re.compile(rb"\r\nupgrade:[ \t]*+([^\r]*)", re.IGNORECASE)


def _upgrade_as_sent(head: RequestHead) -> bytes:
    return b", ".join(each.rstrip(b" \t") for each in _UPGRADE.findall(head.lines))
