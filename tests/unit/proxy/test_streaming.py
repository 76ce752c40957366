"""Bodies flow as they come, and the slower side sets the pace."""

import asyncio
from statistics import median
from time import monotonic

from tests.unit.proxy.harness import Conversation, Site, at_a_site, content_length, eventually, get, ok

MIB = 1 << 20


def streams(head: bytes, pieces: list[bytes], go: list[asyncio.Event]):
    async def script(app: Conversation) -> None:
        await app.head()
        app.send(head)
        for piece, event in zip(pieces, go, strict=True):
            await event.wait()
            app.send(piece)
            await app.drain()

    return script


def test_pieces_pass_at_once_whatever_the_type():
    heads = {
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n": [
            b"data: 1\n\n",
            b"data: 2\n\n",
        ],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n": [b"3\r\n{}\n\r\n", b"3\r\n{}\n\r\n"],
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n": [b"plain", b"text"],
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n": [b"ab", b"cd"],
    }

    @at_a_site()
    async def case(here: Site):
        for head, pieces in heads.items():
            go = [asyncio.Event() for _ in pieces]
            await here.app(streams(head, pieces, go))
            here.worker.leases.revoked("notes", "alice", here.manager.generation, "other app")
            here.manager.generation += 1
            client = await here.client()
            client.send(get())
            await client.head()
            for piece, event in zip(pieces, go, strict=True):
                event.set()
                assert await asyncio.wait_for(client.exactly(len(piece)), 1) == piece

    case()


@at_a_site()
async def test_a_download_arrives_whole(here: Site):
    piece = bytes(range(256)) * 4096

    async def script(app: Conversation) -> None:
        await app.head()
        app.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(piece) * 20))
        for _ in range(20):
            app.send(piece)
            await app.drain()
        await app.rest()

    await here.app(script)
    client = await here.client()
    client.send(get())
    await client.head()
    for _ in range(20):
        assert await client.exactly(len(piece)) == piece


@at_a_site()
async def test_an_upload_arrives_whole_in_either_framing(here: Site):
    piece = bytes(range(256)) * 4096

    async def script(app: Conversation) -> None:
        head = await app.head()
        for _ in range(10):
            if not content_length(head):
                await app.until(b"\r\n")
            assert await app.exactly(len(piece)) == piece
            if not content_length(head):
                await app.until(b"\r\n")
        app.send(ok())

    await here.app(script)
    for chunked in (False, True):
        client = await here.client()
        line = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % (len(piece) * 10)
        client.send(get(b"/", line, method=b"PUT"))
        for _ in range(10):
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await client.drain()
        client.send(b"0\r\n\r\n" if chunked else b"")
        assert (await client.answer())[1] == b"hello"


@at_a_site()
async def test_a_client_that_reads_slowly_slows_the_app_and_memory_stays_bounded(here: Site):
    sent = 0

    async def script(app: Conversation) -> None:
        nonlocal sent
        await app.head()
        app.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        piece = b"x" * 65536
        while True:
            app.send(piece)
            await app.writer.drain()
            sent += len(piece)

    await here.app(script)
    client = await here.client()
    client.send(get())
    await client.exactly(10_000)
    client.writer.transport.pause_reading()
    before, stable = -1, monotonic()
    while monotonic() - stable < 0.3:
        if sent != before:
            before, stable = sent, monotonic()
        await asyncio.sleep(0.02)
    assert sent < 40 * MIB  # kernel buffers of two connections, and ours
    (worker_side,) = here.worker.clients
    assert worker_side.unsent_bytes < 2 * here.worker.settings.write_high_bytes + 256_000


@at_a_site()
async def test_an_app_that_does_not_read_slows_the_upload(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        app.writer.transport.pause_reading()
        await asyncio.Event().wait()

    await here.app(script)
    client = await here.client()
    client.send(get(b"/", b"Content-Length: 1000000000", method=b"POST"))
    sent = 0

    async def upload() -> None:
        nonlocal sent
        while True:
            client.send(b"x" * 65536)
            await client.writer.drain()
            sent += 65536

    uploading = asyncio.create_task(upload())
    before, stable = -1, monotonic()
    while monotonic() - stable < 0.3:
        if sent != before:
            before, stable = sent, monotonic()
        await asyncio.sleep(0.02)
    uploading.cancel()
    await asyncio.gather(uploading, return_exceptions=True)
    assert sent < 40 * MIB


@at_a_site()
async def test_other_requests_go_on_beside_a_stalled_one(here: Site):
    async def script(app: Conversation) -> None:
        head = await app.head()
        if b"/stall" in head:
            app.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 10 * MIB)
            await app.rest()
        app.send(ok())

    await here.app(script)
    stalled = await here.client()
    stalled.send(get(b"/stall"))
    await stalled.head()
    stalled.writer.transport.pause_reading()
    other = await here.client()
    other.send(get())
    assert (await other.answer())[1] == b"hello"


@at_a_site()
async def test_a_body_behind_a_start_is_not_read_beyond_a_small_buffer(here: Site):
    await here.app(lambda app: app.rest())
    here.manager.gate.clear()
    client = await here.client()
    client.send(get(b"/", b"Content-Length: 50000000", method=b"POST") + b"x" * 50_000_000)
    await eventually(lambda: bool(here.manager.calls))
    (worker_side,) = here.worker.clients
    await eventually(lambda: worker_side.kept_bytes > 0)
    await asyncio.sleep(0.1)
    assert worker_side.kept_bytes <= here.worker.settings.max_waiting_bytes + 256_000


@at_a_site()
async def test_separate_writes_of_head_and_body_do_not_wait_for_a_delayed_acknowledgement(here: Site):
    import socket

    async def script(app: Conversation) -> None:
        sock = app.writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        loop = asyncio.get_running_loop()
        while True:
            await app.head()
            app.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            loop.call_soon(app.send, b"hello")

    await here.app(script)
    client = await here.client()
    client.send(get())
    await client.answer()
    durations_s = []
    for _ in range(21):
        began = monotonic()
        client.send(get())
        assert (await client.answer())[1] == b"hello"
        durations_s.append(monotonic() - began)
    assert median(durations_s) < 0.03
