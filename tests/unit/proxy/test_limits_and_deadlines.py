"""Limits and deadlines, with the numbers made small."""

import asyncio
from time import monotonic

from tenement.proxy.settings import Settings
from tests.unit.proxy.harness import (
    Conversation,
    Site,
    at_a_site,
    content_length,
    eventually,
    fields,
    get,
    ok,
    replies,
)


@at_a_site(head_timeout_s=0.15)
async def test_bytes_do_not_extend_the_deadline_of_a_head(here: Site):
    await here.app(replies(ok()))
    client = await here.client()

    async def trickle() -> None:
        for byte in get(b"/" + b"a" * 1000):
            client.send(bytes([byte]))
            await asyncio.sleep(0.01)

    trickling = asyncio.create_task(trickle())
    received = await client.rest()
    trickling.cancel()
    assert received.startswith(b"HTTP/1.1 408 ")
    assert here.manager.calls == []


@at_a_site(head_timeout_s=0.1)
async def test_a_connection_that_never_says_anything_is_closed(here: Site):
    client = await here.client()
    assert await client.rest() == b""


@at_a_site(idle_timeout_s=0.1)
async def test_an_idle_connection_is_closed(here: Site):
    await here.app(replies(ok()))
    client = await here.client()
    client.send(get())
    assert (await client.rest()).endswith(b"hello")


@at_a_site(body_window_s=0.1, body_window_bytes=10)
async def test_a_body_that_trickles_is_given_up(here: Site):
    seen: list[bytes] = []

    async def script(app: Conversation) -> None:
        await app.head()
        seen.append(await app.rest())

    await here.app(script)
    client = await here.client()
    client.send(get(b"/", b"Content-Length: 1000", method=b"POST") + b"x")
    assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
    await eventually(lambda: seen == [b"x"])


@at_a_site(body_window_s=0.5, body_window_bytes=10)
async def test_an_honest_slow_upload_goes_on(here: Site):
    async def script(app: Conversation) -> None:
        head = await app.head()
        await app.exactly(content_length(head))
        app.send(ok())

    await here.app(script)
    client = await here.client()
    client.send(get(b"/", b"Content-Length: 400", method=b"POST"))
    for _ in range(20):
        client.send(b"x" * 20)
        await asyncio.sleep(0.06)
    assert (await client.answer())[1] == b"hello"


@at_a_site(body_window_s=0.5, body_window_bytes=10, write_high_bytes=1000, write_low_bytes=100)
async def test_a_client_held_back_by_a_slow_app_is_not_blamed(here: Site):
    async def script(app: Conversation) -> None:
        head = await app.head()
        await asyncio.sleep(1.2)
        await app.exactly(content_length(head))
        app.send(ok())

    await here.app(script)
    client = await here.client()
    client.send(get(b"/", b"Content-Length: 20000000", method=b"POST") + b"x" * 20_000_000)
    assert (await client.answer())[1] == b"hello"


@at_a_site(stalled_app_s=0.2)
async def test_an_app_that_takes_nothing_of_a_body_is_given_up(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        app.writer.transport.pause_reading()
        await asyncio.Event().wait()

    await here.app(script)
    client = await here.client()
    client.send(get(b"/", b"Content-Length: 90000000", method=b"POST") + b"x" * 80_000_000)
    assert (await client.rest()).startswith(b"HTTP/1.1 504 ")


@at_a_site()
async def test_an_app_that_does_not_answer_in_time_is_504(here: Site):
    here.policy(request_timeout_s=0.1)

    async def script(app: Conversation) -> None:
        await app.rest()

    await here.app(script)
    client = await here.client()
    client.send(get())
    assert (await client.answer())[0].startswith(b"HTTP/1.1 504 ")


@at_a_site()
async def test_an_answer_that_has_begun_has_no_deadline(here: Site):
    here.policy(request_timeout_s=0.05)

    async def script(app: Conversation) -> None:
        await app.head()
        app.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        await asyncio.sleep(0.2)
        app.send(b"hello")

    await here.app(script)
    client = await here.client()
    client.send(get())
    assert (await client.answer())[1] == b"hello"


@at_a_site()
async def test_a_body_announced_too_large_is_refused_before_anybody_is_woken(here: Site):
    here.policy(max_body_bytes=10)
    await here.app(replies(ok()))
    received = await here.ask(get(b"/", b"Content-Length: 11", method=b"POST") + b"x" * 11)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert here.manager.calls == []


@at_a_site()
async def test_a_chunked_body_that_grows_too_large_is_refused(here: Site):
    here.policy(max_body_bytes=10)

    async def script(app: Conversation) -> None:
        await app.rest()

    await here.app(script)
    client = await here.client()
    client.send(get(b"/", b"Transfer-Encoding: chunked", method=b"POST") + b"8\r\n12345678\r\n")
    await client.drain()
    client.send(b"8\r\n12345678\r\n")
    assert (await client.rest()).startswith(b"HTTP/1.1 413 ")


@at_a_site()
async def test_requests_per_second_are_limited_with_the_time_to_wait(here: Site):
    here.policy(rate_limit_rps=2)
    await here.app(replies(ok()))
    client = await here.client()
    statuses = []
    for _ in range(4):
        client.send(get())
        head, _ = await client.answer()
        statuses.append(head[9:12])
    assert statuses == [b"200", b"200", b"429", b"429"]
    assert fields(head, b"retry-after") == [b"1"]


@at_a_site()
async def test_requests_at_a_time_are_limited(here: Site):
    here.policy(max_requests=1)
    go = asyncio.Event()

    async def script(app: Conversation) -> None:
        while True:
            await app.head()
            await go.wait()
            app.send(ok())

    await here.app(script)
    first, second = await here.client(), await here.client()
    first.send(get())
    await eventually(lambda: here.apps[0].connections == 1)
    second.send(get())
    head, _ = await second.answer()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert fields(head, b"retry-after") == [b"1"]
    go.set()
    assert (await first.answer())[1] == b"hello"
    second.send(get())
    assert (await second.answer())[1] == b"hello"


@at_a_site(max_connections=2)
async def test_at_the_limit_of_connections_the_oldest_idle_one_makes_room(here: Site):
    await here.app(replies(ok()))
    clients = []
    for _ in range(3):
        client = await here.client()
        client.send(get())
        await client.answer()
        clients.append(client)
    assert await clients[0].rest() == b""
    clients[1].send(get())
    await clients[1].answer()


@at_a_site(max_connections=1)
async def test_with_no_idle_connection_at_the_limit_a_new_one_is_turned_away(here: Site):
    here.manager.gate.clear()
    first = await here.client()
    first.send(get())
    await eventually(lambda: bool(here.manager.calls))
    second = await here.client()
    assert (await second.rest()).startswith(b"HTTP/1.1 503 ")


class Guest:
    """A connection as far as the worker looks at it to make room."""

    def __init__(self, *, idle: bool) -> None:
        self.idle, self.end = idle, ""

    def abort(self) -> None:
        self.end = "cut"

    def turn_away(self) -> None:
        self.end = "turned away"

    def sweep(self, now: float) -> None: ...

    def drain(self) -> None: ...


@at_a_site(max_connections=100)
async def test_a_crowd_of_busy_connections_does_not_hide_an_idle_one_for_long(here: Site):
    crowd = [Guest(idle=number == 99) for number in range(100)]
    late = [Guest(idle=False), Guest(idle=False)]
    for guest in (*crowd, *late):
        here.worker.add_client(guest)
    assert [guest.end for guest in late] == ["turned away", ""]
    assert [guest.end for guest in crowd] == [""] * 99 + ["cut"]
    for guest in (*crowd, *late):
        here.worker.remove_client(guest)


@at_a_site(stalled_client_s=0.2, write_high_bytes=1000, write_low_bytes=100)
async def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(here: Site):
    ended = asyncio.Event()

    async def script(app: Conversation) -> None:
        await app.head()
        app.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 50_000_000)
        await app.rest()
        ended.set()

    await here.app(script)
    client = await here.client()
    client.send(get())
    await client.head()
    client.writer.transport.pause_reading()
    await asyncio.wait_for(ended.wait(), 3)


@at_a_site(lease_linger_s=0.05)
async def test_a_worker_with_nothing_to_do_does_nothing(here: Site):
    await here.app(replies(ok()))
    assert not here.worker.watching.is_set()
    client = await here.client()
    client.send(get())
    await client.head()
    assert here.worker.watching.is_set()
    client.reset()
    # The lease lingers; then there is nothing to look at any more.
    await eventually(lambda: not here.worker.watching.is_set())
    assert here.manager.released == [("notes:alice", 1)]


@at_a_site(lease_linger_s=0.05, idle_sweep_interval_s=60)
async def test_a_worker_whose_clients_are_all_idle_looks_at_them_seldom(here: Site):
    await here.app(replies(ok()))
    client = await here.client()
    for times in (1, 2):
        client.send(get())
        await client.answer()
        # The lease is given back in time, though the connection stays.
        await eventually(lambda times=times: len(here.manager.released) == times)
        await eventually(lambda: not here.worker.watching.is_set())
    assert here.worker.connections == 1


@at_a_site(lease_linger_s=0.05, idle_timeout_s=0.3, idle_sweep_interval_s=0.4)
async def test_an_idle_connection_is_closed_when_it_is_looked_at(here: Site):
    await here.app(replies(ok()))
    client = await here.client()
    client.send(get())
    await client.answer()
    began = monotonic()
    assert await client.rest() == b""
    assert 0.25 < monotonic() - began < 1.5
    await eventually(lambda: not here.worker.watching.is_set())


@at_a_site(head_timeout_s=5.0)
async def test_deadlines_after_a_long_quiet_time_are_counted_from_now(here: Site):
    await here.app(replies(ok()))
    here.worker.now -= 3600
    client = await here.client()
    client.send(get())
    assert b" 200 " in await client.head()


def test_no_more_connections_are_taken_than_there_are_descriptors_for():
    settings = Settings(max_connections=1000)
    assert settings.within(1_000_000) == settings
    assert settings.within(1024).max_connections == 384
    assert settings.within(10).max_connections == 1
