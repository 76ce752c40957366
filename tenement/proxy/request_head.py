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
    rb"(?:\r\n)?+(" + _TCHAR + rb"++) ([!-~\x80-\xff]++) HTTP/1\.([01])(\r\n" + FIELD_LINES + rb"\r\n)"
)
_LINE: Final = re.compile(rb"(?:\r\n)?+" + _TCHAR + rb"++ [!-~\x80-\xff]++ HTTP/([0-9])\.([0-9])\r\n")
_PLAIN_LINE: Final = re.compile(rb"((?!CONNECT )" + _TCHAR + rb"++) (/[!\"$-~\x80-\xff]*+) HTTP/1\.1")
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
_KEPT: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
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


class Fields:
    """What the fields of a head say.

    `length` is the body's in bytes, or CHUNKED. `host` is the field in lower case. `upgrade` is the field's
    value in lower case, empty if there is nothing to upgrade to. `request_id` is the client's, if it has a
    sane one. `origin` has the fields that claim where the request came from: names in lower case with dashes,
    values as sent. `lines` is the fields as sent, with a line end in front and the empty line behind; `relay`
    is those that go on, each with a line end in front.
    """

    __slots__ = (
        "expects_continue",
        "host",
        "keep_alive",
        "length",
        "lines",
        "origin",
        "relay",
        "request_id",
        "upgrade",
    )

    def __init__(self, lines: bytes, minor: int) -> None:
        self.lines = lines
        self.host = b""
        self.length = 0
        self.keep_alive = minor == 1
        self.expects_continue = False
        self.upgrade = b""
        self.request_id = b""
        self.origin: list[tuple[bytes, bytes]] = []
        self.relay = lines[:-4]

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


class RequestHead:
    """A head that was accepted. `end` is its size: where the body begins. It does not change any more.

    `sent` is the whole of it as sent, or empty if it cannot come again as it is.
    """

    __slots__ = ("end", "fields", "method", "minor", "safe_to_repeat", "sent", "target")

    def __init__(
        self, method: bytes, target: bytes, minor: int, end: int, fields: Fields, sent: bytes = b""
    ) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        self.end = end
        self.fields = fields
        self.sent = sent
        # Whether twice is the same as once (RFC 9110, 9.2.2), and it can be sent twice: it has no body.
        self.safe_to_repeat = fields.length == 0 and method in _IDEMPOTENT and not fields.upgrade

    def relay(self, origin: bytes) -> bytes:
        """The head that goes on to the app, with the lines of `forwarded`.

        It lacks its end: the request's id, which is the value of the last field, and the line ends behind it.
        """
        return b"%b %b HTTP/1.1%b%b\r\nX-Request-Id: " % (
            self.method,
            self.target,
            self.fields.relay,
            origin,
        )


def parse(
    data: bytes, max_line: int, max_head: int, max_fields: int, previous: RequestHead | None = None
) -> RequestHead | None:
    """The head that `data` begins with; None if it is not complete. Sizes are in bytes. Raises BadRequest.

    `previous` is the head before it on the same connection: clients repeat their fields to the byte, and then
    only the request line has to be read, or not even that.
    """
    if previous is not None and data == previous.sent:
        return previous
    if previous is not None and previous.sent and data.endswith(previous.fields.lines):
        fields = previous.fields
        line = data[: -len(fields.lines)]
        plain = _PLAIN_LINE.fullmatch(line)
        if plain is not None and len(line) <= max_line:
            return RequestHead(plain[1], plain[2], 1, len(data), fields, data)
    match = _HEAD.match(data)
    if match is None:
        check_part(data, max_line, max_head)
        return None
    method, target, digit, lines = match.groups()
    minor, end = int(digit), match.end()
    if len(target) > max_line:
        raise BadRequest(414, "The request line is too long")
    if end > max_head or lines.count(b"\n") > max_fields + 2:
        raise BadRequest(431, "The request has too many fields, or they are too long")
    fields = Fields(lines, minor)
    _read_fields(fields, minor)
    if target[0] == 0x2F and b"#" not in target and method != b"CONNECT":
        again = minor == 1 and fields.length == 0 and not fields.upgrade and match.start(1) == 0
        return RequestHead(method, target, minor, end, fields, data[:end] if again else b"")
    return RequestHead(method, _read_target(method, target, fields.host), minor, end, fields)


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


def _read_fields(fields: Fields, minor: int) -> None:
    """Read the fields that matter here. Raises BadRequest."""
    low = fields.lines.lower()
    host: bytes | None = None
    length: bytes | None = None
    coding: bytes | None = None
    options: list[bytes] = []
    upgrades: list[bytes] = []
    changes = False
    for name, value in _SPECIAL.findall(low):
        if name == b"host":
            if host is not None:
                raise BadRequest(400, "Host is given twice")
            host = value
        elif name == b"content-length":
            if length is not None:
                raise BadRequest(400, "Content-Length is given twice")
            length = value.rstrip(b" \t")
        elif name == b"transfer-encoding":
            if coding is not None:
                raise BadRequest(400, "Transfer-Encoding is given twice")
            coding = value.rstrip(b" \t")
        elif name == b"expect":
            fields.expects_continue = minor == 1 and value.rstrip(b" \t") == b"100-continue"
        elif name == b"connection" and value == b"keep-alive" and minor == 1 and not options:
            options = [value]  # True of the next hop, too: it may pass as it is.
        else:
            changes = True
            if name == b"connection":
                options = options + [option.strip(b" \t") for option in value.split(b",")]
            elif name == b"upgrade":
                upgrades.append(value.strip(b" \t"))
    if host is None:
        raise BadRequest(400, "Host is missing")
    fields.upgrade = b",".join(each for each in upgrades if each)
    fields.host = host.rstrip(b" \t")
    if length is not None or coding is not None:
        fields.length = _body_length(minor, length, coding)
    if changes or minor == 0:
        _follow_options(fields, minor, options)
        _rebuild(fields, low, options)


def _body_length(minor: int, length: bytes | None, coding: bytes | None) -> int:
    """RFC 9112, 6.3, and in doubt nothing: each of these has let a second request through somewhere."""
    if coding is None:
        if length is None or not length.isdigit() or len(length) > 18:
            raise BadRequest(400, "Content-Length is not a number")
        return int(length)
    if length is not None:
        raise BadRequest(400, "Content-Length and Transfer-Encoding exclude each other")
    if minor == 0:
        raise BadRequest(400, "Transfer-Encoding does not exist in HTTP/1.0")
    if coding != b"chunked":
        raise BadRequest(400, "The only transfer coding known here is chunked")
    return CHUNKED


def _follow_options(fields: Fields, minor: int, options: list[bytes]) -> None:
    """Follow what the Connection field says of this connection (RFC 9110, 7.6.1). Raises BadRequest."""
    if len(options) > _MAX_OPTIONS:
        raise BadRequest(400, "Connection has too many options")
    if not _NOT_AN_OPTION.isdisjoint(options):
        raise BadRequest(400, "Connection names a field that must reach the app")
    if b"close" in options:
        fields.keep_alive = False
    elif minor == 0:
        fields.keep_alive = b"keep-alive" in options
    # An upgrade to h2c would put requests through that nobody here reads (and RFC 9113 dropped it).
    if b"upgrade" not in options or fields.length or minor == 0 or b"h2c" in fields.upgrade:
        fields.upgrade = b""


def _rebuild(fields: Fields, low: bytes, options: list[bytes]) -> None:
    """Leave out what ends here, note what it said of the origin, and add the options this hop asks of the
    next.
    """
    lines = fields.lines
    cuts: list[tuple[int, int]] = []
    upgrade: list[bytes] = []
    trailers = False
    for field in _SPECIAL.finditer(low):
        name = field[1]
        if name in _KEPT:
            continue
        cuts.append(field.span())
        value = lines[field.start(2) : field.end(2)].rstrip(b" \t")
        if name == b"upgrade":
            upgrade.append(value)
        elif name == b"te":
            trailers = b"trailers" in field[2] and b"te" in options
        elif name not in _HOP_BY_HOP:
            _read_origin(fields, name.replace(b"_", b"-"), value)
    for option in options:
        if option not in _PLAIN_OPTIONS:
            cuts += [each.span() for each in re.finditer(rb"\r\n%b:[^\r]*" % re.escape(option), low)]
    fields.relay = without(lines[:-2], cuts)
    if fields.upgrade:
        fields.relay = b"%b\r\nConnection: Upgrade\r\nUpgrade: %b" % (fields.relay, b", ".join(upgrade))
    elif trailers:
        fields.relay = b"%b\r\nConnection: TE\r\nTE: trailers" % fields.relay


def _read_origin(fields: Fields, name: bytes, value: bytes) -> None:
    if name != b"x-request-id":
        fields.origin.append((name, value))
    elif not fields.request_id and _REQUEST_ID.fullmatch(value):
        fields.request_id = value


def without(lines: bytes, cuts: list[tuple[int, int]]) -> bytes:
    """Field lines without those at `cuts`, and without the last line end."""
    parts: list[bytes] = []
    position = 0
    for start, stop in sorted(set(cuts)):
        parts.append(lines[position:start])
        position = stop
    parts.append(lines[position:-2])
    return b"".join(parts)


def _read_target(method: bytes, target: bytes, host: bytes) -> bytes:
    """The form that apps know of a target that is not a path (RFC 9112, 3.2). Raises BadRequest."""
    if method == b"CONNECT":
        raise BadRequest(501, "CONNECT is not offered here")
    if b"#" in target:
        raise BadRequest(400, "The target has a fragment")
    if target == b"*" and method == b"OPTIONS":
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise BadRequest(400, "The target is neither a path nor a URL")
    try:
        same = fold(absolute[1]) == fold(host)
    except BadHost as error:
        raise BadRequest(400, str(error)) from None
    if not same:
        raise BadRequest(400, "The target's host is not that of the Host field")
    path = absolute[2]
    if not path:
        return b"*" if method == b"OPTIONS" else b"/"
    return path if path[:1] == b"/" else b"/%b" % path
