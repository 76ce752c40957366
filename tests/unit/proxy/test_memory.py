"""Requests leave no memory behind: neither in Python, nor in what is compiled from it."""

import asyncio
import gc
import tracemalloc

from tests.unit.proxy.harness import Conversation, Site, at_a_site, content_length, get, ok

# So that whatever is lost shows.
FILLER = b"X-Filler: " + b"x" * 2000
BODY = b"y" * 3000
LOST_MAX = 100_000


async def app(client: Conversation) -> None:
    """Answer with what the path says: whole, in chunks, or in an HTTP/1.0 way."""
    while True:
        head = await client.head()
        body = await client.exactly(content_length(head))
        if b" /chunks " in head:
            start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + FILLER + b"\r\n\r\n"
            client.send(start[:1000])
            await asyncio.sleep(0)
            client.send(start[1000:] + b"bb8\r\n" + BODY + b"\r\n0\r\nX-Trailer: " + BODY + b"\r\n\r\n")
        elif b" /plain " in head:
            client.send(ok(body or BODY, FILLER, b"Connection: keep-alive, X-Gone", b"X-Gone: " + BODY))
        else:
            client.send(ok(body or BODY, FILLER))


async def converse(here: Site) -> None:
    """One request of each kind, on one connection; the last one closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    client = Conversation(reader, writer)
    whole = get(b"/", FILLER)
    post = get(b"/", FILLER, b"Content-Length: 3000", method=b"POST")
    for request in (
        [whole],
        [whole],
        [get(b"/other", FILLER)],
        [whole[:900], whole[900:1800], whole[1800:]],
        [get(b"/plain", FILLER, b"Connection: keep-alive, X-Gone", b"X-Gone: " + BODY, b"TE: trailers")],
        [get(b"/", FILLER, b"X-Forwarded-For: 1.2.3.4, 5.6.7.8", b"X-Request-Id: " + b"z" * 100)],
        [post + BODY[:1000], BODY[1000:]],
        [get(b"/", FILLER, host=b"nobody.localhost")],
        [whole + whole[:100], whole[100:]],
    ):
        for part in request:
            client.send(part)
            await asyncio.sleep(0.001)
        await client.answer()
    await client.answer()
    client.send(get(b"/chunks", FILLER))
    await client.until(b"\r\n0\r\nX-Trailer: " + BODY + b"\r\n\r\n")
    client.send(b"GET /plain HTTP/1.0\r\nHost: alice.notes.localhost\r\n" + FILLER + b"\r\n\r\n")
    await client.rest()
    client.close()
    await writer.wait_closed()


@at_a_site()
async def test_requests_leave_no_memory_behind(here: Site):
    here.configure(access_log="off", trusted_proxies=["127.0.0.0/8"])
    await here.app(app)
    for _ in range(5):
        await converse(here)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(100):
            await converse(here)
        gc.collect()
        lost, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lost < LOST_MAX
