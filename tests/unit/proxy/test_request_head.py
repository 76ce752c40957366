"""The reading of heads, held against another parser: what is accepted here means the same there."""

import asyncio

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tenement.proxy.framing import CHUNKED
from tenement.proxy.request_head import BadRequest, RequestHead, check_part, parse

LINE, HEAD, FIELDS = 16 << 10, 64 << 10, 128


def read(data: bytes, previous: RequestHead | None = None) -> RequestHead | None:
    return parse(data, LINE, HEAD, FIELDS, previous)


def accepted(data: bytes) -> RequestHead:
    head = read(data)
    assert head is not None
    return head


def test_a_plain_head_goes_on_as_it_came():
    data = b"GET /a?b HTTP/1.1\r\nHost: Example.com\r\nX-A:1\r\nConnection: keep-alive\r\n\r\n"
    head = accepted(data + b"rest")
    assert (head.method, head.target, head.minor, head.end) == (b"GET", b"/a?b", 1, len(data))
    assert head.fields.host == b"example.com"
    assert head.relay(b"") + b"1\r\n\r\n" == data[:-2] + b"X-Request-Id: 1\r\n\r\n"
    assert head.fields.keep_alive and not head.fields.length


def test_lengths_and_codings_are_read():
    assert accepted(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 007 \r\n\r\n").fields.length == 7
    assert (
        accepted(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tChunked\r\n\r\n").fields.length
        == CHUNKED
    )


@pytest.mark.parametrize("cut", range(1, 58))
def test_a_part_of_a_head_is_not_one_yet(cut: int):
    data = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 12345678901\r\n\r\n"
    assert read(data[:cut]) is None
    check_part(data[:cut], LINE, HEAD, max(0, cut - 1))


def test_fields_that_repeat_are_read_once():
    first = accepted(b"GET /a HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n")
    second = read(b"POST /b HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n", first)
    assert second is not None and second.fields is first.fields
    assert (second.method, second.target) == (b"POST", b"/b")


@pytest.mark.parametrize(
    "data",
    [
        b"GET /a HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n",
        b"\r\nGET /a HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n",
        b"GET http://a/a HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n",
        b"GET /b HTTP/1.1\r\nX: y\r\nHost: a\r\nCookie: x\r\n\r\n",
        b"GET /b HTTP/1.0\r\nHost: a\r\nCookie: x\r\n\r\n",
        b"CONNECT /b HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n",
        b"GET /b#c HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n",
        b"GET http://b/ HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n",
        b"GET /b HTTP/1.1\nX: y\r\nHost: a\r\nCookie: x\r\n\r\n",
        b"GET  /b HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n",
        b"GET /b HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\nGET /c HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n",
        b"\r\nHost: a\r\nCookie: x\r\n\r\n",
        b"GET /" + b"b" * LINE + b" HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n",
    ],
)
@pytest.mark.parametrize("line", [b"GET /a", b"\r\nGET /a", b"GET http://a/a", b"GET http://a/b"])
def test_what_came_before_never_changes_what_is_read(data: bytes, line: bytes):
    first = accepted(line + b" HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n")

    def outcome(previous: RequestHead | None) -> object:
        try:
            head = read(data, previous)
        except BadRequest as error:
            return error.status
        return head and (head.method, head.target, head.minor, head.end, head.relay(b""))

    assert outcome(first) == outcome(None)


# --- Another parser's reading (llhttp, by way of aiohttp)


class Reference:
    """aiohttp's parser; lazily made, because it wants a loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def read(self, data: bytes):
        parser = HttpRequestParser(
            BaseProtocol(self.loop), self.loop, 2**16, max_line_size=2**17, max_field_size=2**17
        )
        messages, _, rest = parser.feed_data(data)
        return messages, rest


@pytest.fixture(scope="module")
def reference():
    made = Reference()
    yield made
    made.loop.close()


token = st.text("abcXYZ-_!#$%&'*+.^`|~0189", min_size=1, max_size=8).map(str.encode)
names = st.one_of(
    token,
    st.sampled_from(
        [
            b"Host",
            b"Content-Length",
            b"Transfer-Encoding",
            b"Connection",
            b"Upgrade",
            b"X-A ",
            b"TE",
            b"Cookie",
            b"",
        ]
    ),
)
values = st.one_of(
    st.text('abc ,;="\t', max_size=10).map(str.encode),
    st.sampled_from(
        [
            b"a",
            b"chunked",
            b"5",
            b"+5",
            b"0",
            b"close",
            b"keep-alive, x",
            b"a\r\n b",
            b"a\rb",
            b"a\0",
            b"\x7f",
        ]
    ),
    st.binary(max_size=6),
)
separators = st.sampled_from([b": ", b":", b" : ", b":\t", b"", b"\n"])
ends = st.sampled_from([b"\r\n"] * 8 + [b"\n", b"\r", b"\r\r\n", b""])
field_lines = st.tuples(names, separators, values, ends).map(b"".join)
targets = st.one_of(st.just(b"/"), st.text("/ab%20?&=.;", max_size=8).map(lambda text: b"/" + text.encode()))
starts = st.tuples(
    st.sampled_from([b"GET", b"POST", b"HEAD", b"DELETE", b"OPTIONS"]),
    st.sampled_from([b" "] * 8 + [b"  ", b"\t"]),
    targets,
    st.sampled_from([b" HTTP/1.1"] * 8 + [b" HTTP/1.0", b" HTTP/1.2", b" HTTP/2.0", b"", b" http/1.1"]),
    ends,
).map(b"".join)
heads = st.tuples(starts, st.just(b"Host: a\r\n"), st.lists(field_lines, max_size=4).map(b"".join)).map(
    lambda parts: b"".join(parts) + b"\r\n"
)


@given(heads)
@settings(max_examples=600, deadline=None)
@example(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
def test_what_is_accepted_means_the_same_to_another_parser(reference: Reference, data: bytes):
    try:
        head = read(data)
    except BadRequest:
        return
    if head is None:
        return
    body = b"0\r\n\r\n" if head.fields.length == CHUNKED else b"x" * head.fields.length
    if head.fields.length > 1000 or any(byte >= 0x80 for byte in data):
        return
    marker = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
    try:
        messages, _ = reference.read(data[: head.end] + body + marker)
    except HttpProcessingError:
        return  # It is the stricter one here: it refuses, and nothing is smuggled.
    assert messages[0][0].path.encode() == head.target
    raw = [(name, value) for name, value in messages[0][0].raw_headers]
    assert (b"Host", b"a") in raw
    if head.fields.keep_alive and not head.fields.upgrade and not messages[0][0].upgrade:
        assert messages[1][0].path == "/next"
    # What goes to the app is one request with the same meaning, and nothing behind it.
    relayed, _ = reference.read(head.relay(b"") + b"1\r\n\r\n" + body + marker)
    assert relayed[0][0].path.encode() == head.target
    assert relayed[1][0].path == "/next"


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_accepted_refused_or_not_complete(data: bytes, prefixed: bool):
    if prefixed:
        data = b"GET / HTTP/1.1\r\nHost: a\r\n" + data
    try:
        head = read(data)
    except BadRequest as error:
        assert error.status in (400, 414, 431, 501, 505)
        return
    if head is not None:
        assert data[: head.end].endswith(b"\r\n\r\n")
        assert b"\n" not in head.relay(b"").replace(b"\r\n", b"")
