"""Requests that are refused: nothing of them, and nothing hidden behind them, reaches an app."""

import asyncio
import contextlib
import socket

import pytest

from tenement.proxy.running import Listener, listen
from tests.unit.proxy.harness import HOST, Site, at_a_site, eventually, fields, get, ok, replies

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: bob.notes.localhost\r\n\r\n"


def request(*lines: bytes, line: bytes = b"POST / HTTP/1.1", host: bytes | None = b"Host: " + HOST) -> bytes:
    return b"\r\n".join([line, *([host] if host else []), *lines]) + b"\r\n\r\n"


AMBIGUOUS = {
    "length and coding": request(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "coding and length": request(b"Transfer-Encoding: chunked", b"Content-Length: 4") + b"0\r\n\r\n",
    "two lengths": request(b"Content-Length: 4", b"Content-Length: 5") + b"abcd",
    "the same length twice": request(b"Content-Length: 4", b"content-length: 4") + b"abcd",
    "a signed length": request(b"Content-Length: +5") + b"abcde",
    "a negative length": request(b"Content-Length: -5"),
    "a list of lengths": request(b"Content-Length: 5,5") + b"abcde",
    "an empty length": request(b"Content-Length:"),
    "a hexadecimal length": request(b"Content-Length: 0x5") + b"abcde",
    "a length with a space": request(b"Content-Length: 5 0") + b"abcde",
    "an endless length": request(b"Content-Length: " + b"9" * 30),
    "a length in other digits": request("Content-Length: \u0665".encode()),
    "a space before the colon": request(b"Transfer-Encoding : chunked") + b"0\r\n\r\n",
    "a tab before the colon": request(b"Content-Length\t: 5") + b"abcde",
    "an unknown coding": request(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n",
    "chunked is not last": request(b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
    "another coding first": request(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n",
    "chunked twice": request(b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n",
    "two codings": request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "a quoted coding": request(b'Transfer-Encoding: "chunked"') + b"0\r\n\r\n",
    "a vertical tab in the coding": request(b"Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n",
    "a coding in HTTP/1.0": request(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0") + b"0\r\n\r\n",
    "a folded line": request(b"X-A: 1", b" folded"),
    "a folded coding": request(b"Transfer-Encoding:", b" chunked") + b"0\r\n\r\n",
    "a bare line feed": b"GET / HTTP/1.1\r\nHost: " + HOST + b"\nX: y\r\n\r\n",
    "only line feeds": b"GET / HTTP/1.1\nHost: " + HOST + b"\n\n",
    "a bare carriage return": request(b"X-A: a\rTransfer-Encoding: chunked"),
    "a NUL": request(b"X-A: a\0b"),
    "a control character": request(b"X-A: a\x01b"),
    "a name with a space": request(b"X A: b"),
    "a line without a colon": request(b"nonsense"),
    "an empty name": request(b": x"),
    "a space before the first field": b"GET / HTTP/1.1\r\n Host: " + HOST + b"\r\n\r\n",
    "two hosts": request(b"Host: bob.notes.localhost"),
    "the same host twice": request(b"Host: " + HOST),
    "no host": request(host=None),
    "no host in HTTP/1.0": request(host=None, line=b"GET / HTTP/1.0"),
    "an empty host": request(host=b"Host:"),
    "a malformed host": request(host=b"Host: a..b"),
    "a host with a path": request(host=b"Host: alice.notes.localhost/x"),
    "a host with a user": request(host=b"Host: x@alice.notes.localhost"),
    "another host in the target": request(line=b"GET http://bob.notes.localhost/ HTTP/1.1"),
    "a user in the target": request(line=b"GET http://x@alice.notes.localhost/ HTTP/1.1"),
    "a fragment": request(line=b"GET /a#b HTTP/1.1"),
    "a target that is no path": request(line=b"GET a HTTP/1.1"),
    "an asterisk": request(line=b"GET * HTTP/1.1"),
    "two spaces": request(line=b"GET  / HTTP/1.1"),
    "a tab in the line": request(line=b"GET\t/ HTTP/1.1"),
    "a space in the target": request(line=b"GET /a b HTTP/1.1"),
    "no version": request(line=b"GET /"),
    "an odd version": request(line=b"GET / HTTP/1.1x"),
    "a lower-case version": request(line=b"GET / http/1.1"),
    "a version with zeros": request(line=b"GET / HTTP/01.1"),
    "connection names the length": request(b"Connection: Content-Length", b"Content-Length: 5") + b"abcde",
    "connection names the host": request(b"Connection: close, host"),
    "TLS on the plain port": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32,
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_could_be_read_in_two_ways_is_refused(name: str):
    @at_a_site()
    async def case(here: Site):
        await here.app(replies(ok(b"alice")))
        await here.app(replies(ok(b"bob")), "notes:bob")
        received = await here.ask(AMBIGUOUS[name] + HIDDEN)
        assert received.startswith(b"HTTP/1.1 400 "), received
        assert received.count(b"HTTP/1.1 ") == 1
        assert fields(received, b"connection") == [b"close"]
        assert here.manager.calls == []

    case()


BROKEN_CHUNKS = {
    "a size that is no number": b"x\r\n",
    "a signed size": b"+5\r\nhello\r\n",
    "a size with 0x": b"0x5\r\nhello\r\n",
    "an endless size": b"f" * 17 + b"\r\n",
    "a bare line feed behind the size": b"5\nhello\r\n0\r\n\r\n",
    "a bare carriage return behind the size": b"5\rxhello\r\n",
    "a chunk longer than its size": b"5\r\nhelloX\r\n0\r\n\r\n",
    "a line feed alone behind the chunk": b"5\r\nhello\n0\r\n\r\n",
    "a NUL in an extension": b"5;a=\0\r\nhello\r\n",
    "a line feed in an extension": b"5;a=\nb\r\nhello\r\n",
    "an endless extension": b"5;" + b"a" * 5000,
    "a space before the size": b" 5\r\nhello\r\n",
    "a trailer that frames": b"0\r\nContent-Length: 5\r\n\r\n",
    "a trailer that routes": b"0\r\nX: 1\r\nHost: bob\r\n\r\n",
    "a malformed trailer": b"0\r\nno colon\r\n\r\n",
    "a folded trailer": b"0\r\nX: 1\r\n y\r\n\r\n",
    "endless trailers": b"0\r\n" + b"X: y\r\n" * 4000,
}


@pytest.mark.parametrize("name", BROKEN_CHUNKS)
def test_broken_chunks_are_refused_and_the_app_is_left(name: str):
    @at_a_site()
    async def case(here: Site):
        seen: list[bytes] = []

        async def script(app):
            await app.head()
            seen.append(await app.rest())

        await here.app(script)
        received = await here.ask(request(b"Transfer-Encoding: chunked") + BROKEN_CHUNKS[name] + HIDDEN)
        assert received.startswith(b"HTTP/1.1 400 ")
        assert received.count(b"HTTP/1.1 ") == 1
        await eventually(lambda: bool(seen))
        assert b"hidden" not in seen[0]

    case()


STATUSES = {
    "a long line": (get(b"/" + b"a" * 20_000), 414),
    "an endless line": (b"GET /" + b"a" * 40_000, 414),
    "large fields": (get(b"/", *[b"X-%d: " % n + b"y" * 8000 for n in range(9)]), 431),
    "endless fields": (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000, 431),
    "many fields": (get(b"/", *[b"X: y"] * 200), 431),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/0.9 with a version": (b"GET / HTTP/0.9\r\n\r\n", 505),
    "CONNECT": (get(b"bob:80", method=b"CONNECT"), 501),
}


@pytest.mark.parametrize("name", STATUSES)
def test_refusals_have_their_status_and_wake_nobody(name: str):
    @at_a_site()
    async def case(here: Site):
        received = await here.ask(STATUSES[name][0])
        assert received.startswith(b"HTTP/1.1 %d " % STATUSES[name][1]), received[:200]
        assert here.manager.calls == []

    case()


@at_a_site()
async def test_a_refused_client_may_finish_what_it_is_sending(here: Site):
    client = await here.client()
    client.send(request(host=None))
    assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
    for _ in range(10):  # a reset would take the answer from a client that has not read it yet
        client.send(b"x" * 10_000)
        await client.drain()
        await asyncio.sleep(0.01)


@at_a_site()
async def test_a_services_own_head_limit_is_kept(here: Site):
    here.policy(max_header_bytes=1000)
    await here.app(replies(ok()))
    received = await here.ask(get(b"/", b"X-A: " + b"x" * 1000))
    assert received.startswith(b"HTTP/1.1 431 ")
    assert here.manager.calls == []


@at_a_site()
async def test_unknown_hosts_are_not_found_and_the_connection_stays(here: Site):
    await here.app(replies(ok()))
    client = await here.client()
    for host in (b"nobody.notes.localhost", b"[::1]:80", b"127.0.0.1", b"other.example"):
        client.send(get(host=host))
        head, _ = await client.answer()
        assert head.startswith(b"HTTP/1.1 404 ")
    client.send(get())
    assert (await client.answer())[1] == b"hello"
    assert here.manager.calls == ["notes:alice"]


@at_a_site()
async def test_nobody_is_served_at_the_address_that_tenants_can_reach(here: Site):
    await here.app(replies(ok()))
    sock = socket.create_server((here.worker.settings.source_address, 0))
    await listen(here.worker, [Listener(sock, b"http")])
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    writer.write(get())
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    assert here.manager.calls == []


@at_a_site()
async def test_h2c_is_not_upgraded_to(here: Site):
    seen: list[bytes] = []

    async def script(app):
        seen.append(await app.head())
        app.send(ok())

    await here.app(script)
    client = await here.client()
    client.send(
        get(b"/", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    )
    await client.answer()
    assert (
        fields(seen[0], b"upgrade")
        == fields(seen[0], b"http2-settings")
        == fields(seen[0], b"connection")
        == []
    )
