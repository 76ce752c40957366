"""Any bytes at the proxy's parsers: read, not complete, or refused as declared; never anything else.

What is read is held against h11, which shares nothing with ours: both must see the same method, target,
fields and end of the body, in what the client sent and in what goes on. Where one of them refuses nothing can
be smuggled, so that is allowed to either; but h11 must not refuse what we have sent on ourselves.
"""

import time
from collections.abc import Callable
from itertools import pairwise

import h11
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tenement.proxy import request_head, response_head
from tenement.proxy.forwarded import TrustedProxies, client, fields, fields_from_proxy
from tenement.proxy.framing import CHUNKED, UNTIL_CLOSE, BadFraming, of_body
from tenement.proxy.hosts import NAME_MAX, BadHost, fold
from tenement.proxy.request_head import BadRequest, RequestHead
from tenement.proxy.response_head import BadResponse, ResponseHead

MARKER = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
ENDS_HERE = {
    *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"upgrade"),
    *(b"http2-settings", b"forwarded", b"x-real-ip", b"x-request-id"),
}
NOTHING_FEWER = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)

# --- Bytes that are nearly right: real messages, then cut, doubled, swapped and overwritten

REQUESTS = [
    b"GET /a/b?c=%20d HTTP/1.1\r\nHost: alice.notes.example\r\nAccept: */*\r\nCookie: a=b; c=d\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n"
    b"5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    b"GET http://a/x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4, 5.6.7.8\r\nForwarded: for=1.2.3.4\r\n"
    b"X_Forwarded_Proto: https\r\nX-Real-IP: 1.2.3.4\r\nX-Request-Id: abc\r\n\r\n",
    b"HEAD / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive, x-secret\r\nX-Secret: 1\r\nTE: trailers\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a:8080\r\nConnection: te, close\r\nTE: trailers, gzip;q=0\r\n\r\n",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.0 404 Not Found\r\nServer: x\r\n\r\nuntil the end",
    b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 500\r\n\r\n',
    b"HTTP/1.1 204 \r\nConnection: close, x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\r\n",
    b"HTTP/1.1 500\r\nContent-Length: 0\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\n",
]
SIGNS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\x80",
    b"\xff",
    b"\x7f",
    b"0",
    b"#",
    b"//",
    b"@",
]
PIECES = [
    *SIGNS,
    b" HTTP/1.1",
    b"GET / HTTP/1.1\r\n",
    b"\r\n folded",
    b"\r\n\r\n",
    b"\r\nConnection: close",
    b"\r\nConnection: content-length",
    b"\r\nConnection: host",
    b"\r\nContent-Length: 0",
    b"\r\nContent-Length: 5",
    b"\r\nContent-Length: 5, 5",
    b"\r\nHost: b",
    b"\r\nTransfer-Encoding : chunked",
    b"\r\nTransfer-Encoding: chunked",
    b"\r\nTransfer-Encoding: x, chunked",
    b"\r\nX-Real_Ip: 6.6.6.6",
    b"\r\nX: \xe2\x80\xa8",
    b"\r\nX_Forwarded_For: 6.6.6.6",
    b"\r\ncontent-length:+5",
    b"chunked",
]


@st.composite
def nearly(draw: st.DrawFn, messages: list[bytes]) -> bytes:
    """One of the messages with a few faults."""
    data = draw(st.sampled_from(messages))
    for _ in range(draw(st.integers(0, 3))):
        ends = [at for at in range(len(data)) if data.startswith(b"\r\n", at)] or [0]
        start = draw(st.one_of(st.integers(0, len(data)), st.sampled_from(ends)))
        stop = min(len(data), start + draw(st.sampled_from([0, 0, 0, 1, 2, 8])))
        piece = draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3), st.just(data[start:stop] * 2)))
        data = data[:start] + piece + data[stop:]
    return data


def read_request(data: bytes) -> RequestHead | None:
    try:
        return request_head.parse(data, 16 << 10, 64 << 10, 128)
    except BadRequest as error:
        assert error.status in (400, 414, 431, 501, 505)
        assert error.reason.isprintable()
        return None


def read_response(data: bytes, *, to_head: bool = False) -> ResponseHead | None:
    try:
        return response_head.parse(data, 64 << 10, to_head=to_head)
    except BadResponse:
        return None


def h11_reads(role: type, data: bytes, asked: bytes = b"GET", *, ended: bool = False):
    """The head, the body, and what follows the message, as h11 has it; None: it refuses, or wants more."""
    connection = h11.Connection(role, max_incomplete_event_size=1 << 20)
    if role is h11.CLIENT:
        connection.send(h11.Request(method=asked, target="/", headers=[("Host", "a")]))
        connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    if ended:
        connection.receive_data(b"")
    head, body = None, b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return head, body, bytes(connection.trailing_data[0])
            else:
                return None
    except h11.RemoteProtocolError:
        return None


def body_of(length: int, rest: bytes) -> tuple[bytes, bytes, bool] | None:
    """The payload, what follows it, and whether it is complete, as ours has it; None: refused."""
    framing = of_body(length, decode=True)
    if framing.done:
        return b"", rest, True
    try:
        payload, behind = framing.feed(rest)
    except BadFraming:
        return None
    return payload, behind, framing.done or length == UNTIL_CLOSE


# --- Requests


@given(st.one_of(nearly(REQUESTS), nearly([*REQUESTS, b"".join(REQUESTS)])))
@settings(NOTHING_FEWER, max_examples=600)
@example(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
@example(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nX: 1\r\nx: 2\r\nX-: 3\r\n\r\n")
def test_a_request_means_the_same_to_another_parser(data: bytes):
    head = read_request(data)
    if head is None:
        return
    there = h11_reads(h11.SERVER, data)
    ours = body_of(head.fields.length, data[head.end :])
    if there is None or ours is None or not ours[2]:
        return
    theirs, body, behind = there
    assert theirs.method == head.method
    assert theirs.target == head.target or theirs.target.lower().startswith((b"http://", b"https://"))
    assert (body, behind) == ours[:2]
    assert [value.lower() for name, value in theirs.headers if name == b"host"] == [head.fields.host]


@given(nearly(REQUESTS))
@settings(NOTHING_FEWER, max_examples=600)
def test_what_goes_to_the_app_is_one_request_with_the_fields_that_came(data: bytes):
    head = read_request(data)
    if head is None or any(byte >= 0x80 for byte in head.target):  # which h11 does not read
        return
    try:
        fold(head.fields.host)
    except BadHost:
        return  # Answered before anything is relayed.
    sent = head.relay(fields("9.9.9.9", b"http", head.fields.host)) + b"id\r\n\r\n"
    body = {CHUNKED: b"3\r\nabc\r\n0\r\n\r\n"}.get(head.fields.length, b"x" * min(head.fields.length, 1000))
    there = h11_reads(h11.SERVER, sent + body + MARKER) if head.fields.length <= 1000 else None
    if head.fields.length > 1000:
        return
    assert there is not None, sent
    theirs, payload, behind = there
    assert (theirs.method, theirs.target, behind) == (head.method, head.target, MARKER)
    assert payload == (b"abc" if head.fields.length == CHUNKED else body)
    came = h11_reads(h11.SERVER, data[: head.end] + body)
    if came is None:
        return
    options = {
        option.strip().lower()
        for name, value in came[0].headers
        if name == b"connection"
        for option in value.split(b",")
    }
    kept = [(name, value) for name, value in came[0].headers if not ends_here(name, options)]
    passed = [(name, value) for name, value in theirs.headers if not ends_here(name, set())]
    assert passed == kept
    assert all(value == b"id" for name, value in theirs.headers if name == b"x-request-id")
    assert [value for name, value in theirs.headers if name == b"x-forwarded-for"] == [b"9.9.9.9"]
    assert not [name for name, _ in theirs.headers if b"_" in name and name.replace(b"_", b"-") in ENDS_HERE]


def ends_here(name: bytes, options: set[bytes]) -> bool:
    dashed = name.replace(b"_", b"-")
    return name in options or dashed in ENDS_HERE or dashed.startswith(b"x-forwarded")


@given(
    st.binary(max_size=400), st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n"])
)
@settings(NOTHING_FEWER, max_examples=400)
def test_any_bytes_are_a_request_or_none(data: bytes, before: bytes):
    head = read_request(before + data)
    if head is not None:
        assert b"\n" not in head.relay(b"").replace(b"\r\n", b"")


@given(nearly(REQUESTS), st.lists(st.integers(0, 400), max_size=4))
@settings(NOTHING_FEWER, max_examples=300)
def test_a_request_in_pieces_is_the_same_request(data: bytes, cuts: list[int]):
    whole = read_request(data)
    for cut in cuts:
        part = read_request(data[:cut])
        if part is not None:
            assert whole is not None
            assert (part.end, part.method, part.target) == (whole.end, whole.method, whole.target)
        elif whole is not None and cut < whole.end:
            # Not complete is not refused.
            assert request_head.parse(data[:cut], 16 << 10, 64 << 10, 128) is None


# --- Answers


@given(nearly(RESPONSES), st.sampled_from([b"GET", b"HEAD"]))
@settings(NOTHING_FEWER, max_examples=600)
def test_an_answer_means_the_same_to_another_parser(data: bytes, asked: bytes):
    head = read_response(data, to_head=asked == b"HEAD")
    if head is None or head.status < 200:
        return
    ours = body_of(head.length, data[head.end :])
    there = h11_reads(h11.CLIENT, data, asked, ended=True)
    if ours is None or not ours[2] or there is None:
        return
    theirs, body, behind = there
    assert theirs.status_code == head.status
    if head.length == UNTIL_CLOSE:
        assert body == ours[0]
    else:
        assert (body, behind) == ours[:2]


@given(nearly(RESPONSES), st.sampled_from([b"GET", b"HEAD"]))
@settings(NOTHING_FEWER, max_examples=400)
def test_what_goes_to_the_client_is_one_answer(data: bytes, asked: bytes):
    head = read_response(data, to_head=asked == b"HEAD")
    if head is None or head.status < 200:
        return
    sent = head.relay(data[: head.end]) + b"\r\n\r\n"
    body = {CHUNKED: b"3\r\nabc\r\n0\r\n\r\n", UNTIL_CLOSE: b"abc"}.get(
        head.length, b"x" * min(max(head.length, 0), 1000)
    )
    if head.length > 1000:
        return
    there = h11_reads(h11.CLIENT, sent + body, asked, ended=True)
    assert there is not None, sent
    theirs, payload, behind = there
    assert (theirs.status_code, behind) == (head.status, b"")
    assert payload == (b"abc" if head.length < 0 else body)
    names = {name for name, _ in theirs.headers}
    assert names.isdisjoint({b"connection", b"keep-alive", b"proxy-connection", b"upgrade"})


@given(st.binary(max_size=400), st.sampled_from([b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n"]), st.booleans())
@settings(NOTHING_FEWER, max_examples=400)
def test_any_bytes_are_an_answer_or_none(data: bytes, before: bytes, to_head: bool):
    head = read_response(before + data, to_head=to_head)
    if head is not None:
        for framed in (True, False):
            sent = head.relay((before + data)[: head.end], framed=framed)
            assert b"\n" not in sent.replace(b"\r\n", b"")


@given(nearly(RESPONSES), nearly(RESPONSES), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n"]), st.booleans())
@settings(NOTHING_FEWER, max_examples=400)
def test_the_answer_before_never_changes_what_is_read(first: bytes, data: bytes, extra: bytes, to_head: bool):
    before = read_response(first)
    if before is None or not before.text:
        return

    def outcome(data: bytes, previous: ResponseHead | None) -> object:
        try:
            head = response_head.parse(data, 64 << 10, to_head=to_head, previous=previous)
        except BadResponse as error:
            return str(error)
        return head and (head.status, head.end, head.length, head.persistent, head.verbatim, head.relay(data))

    for each in (data, first, before.text[:-1], before.text[:-2] + extra + b"\r\n", before.text + extra):
        assert outcome(each, before) == outcome(each, None)


# --- Bodies

CHUNKS = [
    b"5\r\nhello\r\n0\r\n\r\n",
    b'a;x="y"\r\n0123456789\r\n1\r\nz\r\n000\r\nX: y\r\nZ:\r\n\r\n',
    b"0\r\n\r\n",
]


@given(
    st.one_of(nearly(CHUNKS), st.binary(max_size=80)), st.lists(st.integers(0, 80), max_size=5), st.booleans()
)
@settings(NOTHING_FEWER, max_examples=600)
def test_chunks_end_where_another_parser_ends_them(data: bytes, cuts: list[int], decode: bool):
    framing = of_body(CHUNKED, decode=decode)
    passed = rest = b""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    try:
        for start, stop in pairwise(edges):
            if framing.done:
                rest += data[start:stop]
            else:
                out, rest = framing.feed(data[start:stop])
                passed += out
    except BadFraming:
        return
    if not framing.done:
        return
    assert decode or passed + rest == data
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    there = h11_reads(h11.SERVER, head + data)
    if there is not None:
        assert there[2] == rest
        assert not decode or there[1] == passed


# --- What two readers could take for different messages is refused, whoever sent it

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        HEAD + b"Content-Length: 5, 5\r\n\r\nhello",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: +5\r\n\r\nhello",
        HEAD + b"Content-Length: 0x5\r\n\r\nhello",
        HEAD + b"Content-Length: 5_0\r\n\r\nhello",
        HEAD + b"Content-Length:\r\n\r\nhello",
        HEAD + b"X: a\r\n Content-Length: 5\r\n\r\nhello",
        HEAD + b"X: a\nContent-Length: 5\r\n\r\nhello",
        HEAD + b"X: a\rContent-Length: 5\r\n\r\nhello",
        HEAD + b"Host: b\r\n\r\n",
        HEAD + b"Connection: content-length\r\nContent-Length: 5\r\n\r\nhello",
        HEAD + b": a\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /\r\nHost: a\r\n\r\n",
        b"POST / a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST\t/ HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_an_ambiguous_request_is_refused(data: bytes):
    with pytest.raises(BadRequest):
        request_head.parse(data, 16 << 10, 64 << 10, 128)


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5,5\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"X: a\r\n b\r\n",
        b"X: a\nSet-Cookie: b\r\n",
        b"X : a\r\n",
        b"Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_an_ambiguous_answer_is_refused(lines: bytes):
    with pytest.raises(BadResponse):
        response_head.parse(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\nhello", 64 << 10, to_head=False)


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\n\n0\r\n\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 5\r\nhello\r\n0\r\n\r\n",
        b"5;\n0\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        b"0\r\nContent-Length: 5\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n X: y\r\n\r\n",
    ],
)
def test_an_ambiguous_chunk_is_refused(body: bytes):
    with pytest.raises(BadFraming):
        of_body(CHUNKED).feed(body)


# --- Hosts, and where a request came from

hosts = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=40).map(str.encode),
    st.text("aB-_.:0[]\u00fc\uff0e\u3002\u212a\u200d ", max_size=40).map(str.encode),
)


@given(hosts)
@settings(NOTHING_FEWER, max_examples=600)
def test_a_host_is_folded_once_and_for_all_or_refused(field: bytes):
    try:
        folded = fold(field)
    except BadHost as error:
        assert str(error).isprintable()
        return
    assert folded.isascii() and folded == folded.lower() and 0 < len(folded) <= NAME_MAX
    assert set(folded) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.[]:")
    assert fold(folded.encode()) == folded
    assert fold(folded.upper().encode() + b":80") == folded


no_control = bytes([*range(9), *range(10, 32), 127])
claims = st.one_of(
    st.text('1.2,:[] f="a;', max_size=20).map(str.encode),
    st.binary(max_size=12).map(lambda value: value.translate(None, no_control)),
)
claimed = st.sampled_from(
    [b"x-forwarded-" + name for name in (b"for", b"proto", b"host", b"z")] + [b"forwarded"]
)
origins = st.lists(st.tuples(claimed, claims), max_size=5)


@given(origins, st.sampled_from(["9.9.9.9", "::1", "10.1.1.1"]))
@settings(NOTHING_FEWER, max_examples=300)
def test_whatever_a_trusted_proxy_says_stays_within_its_lines(said: list[tuple[bytes, bytes]], peer: str):
    trusted = TrustedProxies(["10.0.0.0/8", "::/0"])
    lines = fields_from_proxy(peer, b"https", b"a", said, trusted)
    there = h11_reads(h11.SERVER, b"GET / HTTP/1.1\r\nHost: a" + lines + b"\r\n\r\n")
    assert there is not None, lines
    names = [name for name, _ in there[0].headers]
    for name in (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip", b"forwarded"):
        assert names.count(name) == 1
    assert client([value for _, value in said] or [b"1.1.1.1"], trusted) is not None


# --- Time: nothing that fits into the limits takes long


@pytest.mark.parametrize(
    "attack",
    [
        lambda size: fold_or_refuse("\u00fc".encode() * size),
        lambda size: fold_or_refuse(("\u00fc." * size).encode()),
        lambda size: fold_or_refuse(b"a." * size),
        lambda size: read_request(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: " + b"a," * size + b"\r\n\r\n"),
        lambda size: read_request(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b" \t" * size + b"\r\n\r\n"),
        lambda size: read_request(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A:\r\n" * size),
        lambda size: read_request(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-" + b"_" * size + b":\r\n\r\n"),
        lambda size: read_response(b"HTTP/1.1 200 " + b"\t" * size + b"\r\nX:" + b" " * size + b"\r\n\r\n"),
        lambda size: body_of(CHUNKED, b"1;" + b" ;" * size),
        lambda size: body_of(CHUNKED, b"0\r\n" + b"A:\r\n" * (size // 8)),
    ],
)
def test_long_input_takes_time_in_proportion(attack: Callable[[int], object]):
    def seconds(size: int) -> float:
        tries = []
        for _ in range(3):
            start = time.process_time()
            attack(size)
            tries.append(time.process_time() - start)
        return min(tries)

    # A quadratic reading would take 64 times as long; below a few milliseconds nobody is hurt.
    assert seconds(16_000) < max(0.005, 24 * seconds(2_000))


def fold_or_refuse(field: bytes) -> str | None:
    try:
        return fold(field)
    except BadHost:
        return None
