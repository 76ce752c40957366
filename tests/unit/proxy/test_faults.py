"""Apps and clients that fail: what the other side gets to see, and that nothing is sent twice."""

import asyncio

import pytest

from tenement.errors import (
    Conflict,
    Disabled,
    Internal,
    NotFound,
    Overloaded,
    StartFailed,
    StartTimeout,
    TenementError,
)
from tests.unit.proxy.harness import (
    WAIT_S,
    App,
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

POST = get(b"/", b"Content-Length: 4", method=b"POST") + b"body"

BROKEN = {
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "length and coding": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a signed length": b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
    "an unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a coding in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "a folded line": b"HTTP/1.1 200 OK\r\nX-A: 1\r\n folded\r\nContent-Length: 0\r\n\r\n",
    "a NUL in a field": b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 0\r\n\r\n",
    "a space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
    "no status": b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "an endless head": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 20_000,
    "endless interim answers": b"HTTP/1.1 102 Processing\r\n\r\n" * 100,
    "an upgrade nobody asked for": b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: ws\r\n\r\n",
    "connection names the length": b"HTTP/1.1 200 OK\r\nConnection: content-length\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_answer_that_cannot_be_passed_on_is_502(name: str):
    @at_a_site()
    async def case(here: Site):
        await here.app(replies(BROKEN[name]))
        client = await here.client()
        client.send(get())
        head = await client.head()
        while head.startswith(b"HTTP/1.1 102"):
            head = await client.head()
        assert head.startswith(b"HTTP/1.1 502 ")

    case()


@at_a_site()
async def test_what_an_app_sends_behind_its_answer_reaches_nobody(here: Site):
    await here.app(replies(ok(b"first") + ok(b"split"), ok(b"second")))
    client = await here.client()
    for _ in range(2):
        client.send(get())
        assert (await client.answer())[1] == b"first"
    assert here.apps[0].connections == 2


@at_a_site()
async def test_what_an_app_sends_later_unasked_reaches_nobody(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        app.send(ok(b"first"))
        await app.drain()
        await sent.wait()
        app.send(ok(b"split"))
        await app.rest()

    sent = asyncio.Event()
    await here.app(script)
    client = await here.client()
    client.send(get())
    assert (await client.answer())[1] == b"first"
    sent.set()
    pool = here.worker.leases.held["notes:alice"].pool
    await eventually(lambda: not pool.connections)
    client.send(get())
    assert (await client.answer())[1] == b"first"


@at_a_site()
async def test_a_short_answer_breaks_off(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        app.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 100)
        await app.drain()

    await here.app(script)
    client = await here.client()
    client.send(get())
    assert content_length(await client.head()) == 1000
    assert await client.rest() == b"x" * 100


@at_a_site()
async def test_chunks_without_an_end_break_off_and_get_none(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        app.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await app.drain()

    await here.app(script)
    client = await here.client()
    client.send(get())
    await client.head()
    assert await client.rest() == b"5\r\nhello\r\n"


@at_a_site()
async def test_broken_chunks_in_an_answer_break_off_before_the_fault(here: Site):
    await here.app(replies(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"))
    client = await here.client()
    client.send(get())
    await client.head()
    assert b"zz" not in await client.rest()


@at_a_site()
async def test_an_answer_ending_with_a_reset_does_not_look_complete(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        app.send(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await app.drain()
        await go.wait()
        app.reset()

    go = asyncio.Event()
    await here.app(script)
    client = await here.client()
    client.send(get())
    await client.head()
    assert await client.exactly(4) == b"some"
    go.set()
    with pytest.raises(ConnectionResetError):
        await client.some()


@at_a_site()
async def test_an_app_that_closes_without_an_answer_is_502_and_reported(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()

    await here.app(script)
    client = await here.client()
    client.send(get())
    assert (await client.answer())[0].startswith(b"HTTP/1.1 502 ")
    assert here.manager.reports == [("notes:alice", "reset")]
    assert here.apps[0].connections == 1


def counting(counter: list[bytes], keeps: int):
    """Answers, and after `keeps` requests closes the connection as soon as the next one begins to arrive."""

    async def script(app: Conversation) -> None:
        for _ in range(keeps):
            head = await app.head()
            await app.exactly(content_length(head))
            counter.append(head.split(b" ")[0])
            app.send(ok())
        await app.some()

    return script


@at_a_site(unsafe_reuse_s=60)
async def test_a_request_on_a_stale_connection_is_sent_again_if_that_is_safe(here: Site):
    counter: list[bytes] = []
    await here.app(counting(counter, 1))
    client = await here.client()
    for _ in range(5):
        client.send(get())
        assert (await client.answer())[1] == b"hello"
    assert len(counter) == 5
    assert here.manager.reports == []


@at_a_site(unsafe_reuse_s=60)
async def test_a_post_is_never_sent_twice(here: Site):
    counter: list[bytes] = []
    await here.app(counting(counter, 1))
    client = await here.client()
    client.send(POST)
    assert (await client.answer())[1] == b"hello"
    client.send(POST)
    assert (await client.answer())[0].startswith(b"HTTP/1.1 502 ")
    assert counter == [b"POST"]


@at_a_site(unsafe_reuse_s=0)
async def test_a_post_goes_on_a_new_connection_if_the_pooled_one_may_be_about_to_close(here: Site):
    counter: list[bytes] = []
    app = await here.app(counting(counter, 1))
    client = await here.client()
    for _ in range(3):
        client.send(POST)
        assert (await client.answer())[1] == b"hello"
    assert app.connections == 3
    assert len(counter) == 3


@at_a_site(unsafe_reuse_s=60)
async def test_a_pooled_connection_that_has_ended_is_not_used_for_a_post(here: Site):
    async def script(app: Conversation) -> None:
        head = await app.head()
        await app.exactly(content_length(head))
        app.send(ok())
        await app.drain()

    await here.app(script)
    client = await here.client()
    for _ in range(20):
        client.send(POST)
        assert (await client.answer())[1] == b"hello"


@at_a_site()
async def test_an_app_that_says_when_it_closes_is_believed(here: Site):
    app = await here.app(replies(ok(b"", b"Keep-Alive: timeout=1")))
    client = await here.client()
    for _ in range(3):
        client.send(get())
        await client.answer()
    assert app.connections == 3


@at_a_site()
async def test_a_refused_connection_is_reported_and_another_lease_tried(here: Site):
    dead = App(replies(ok()))
    await dead.start()
    await dead.stop()
    here.manager.addresses["notes:alice"] = dead.address
    live = App(replies(ok(b"moved")))
    await live.start()
    here.apps.append(live)
    client = await here.client()

    def move(name: str) -> None:
        if here.manager.reports:
            here.manager.addresses[name] = live.address
            here.manager.generation = 2

    here.manager.on_lease = move
    client.send(POST)
    assert (await client.answer())[1] == b"moved"
    assert here.manager.reports == [("notes:alice", "refused")]
    assert ("notes:alice", 1) in here.manager.released


@at_a_site()
async def test_an_app_that_keeps_refusing_is_502(here: Site):
    dead = App(replies(ok()))
    await dead.start()
    await dead.stop()
    here.manager.addresses["notes:alice"] = dead.address
    client = await here.client()
    client.send(get())
    assert (await client.answer())[0].startswith(b"HTTP/1.1 502 ")
    assert len(here.manager.calls) == 3


def dying(refusals: int):
    """Resets so many connections without reading of them, as those in the backlog of an app that dies."""
    left = [refusals]

    async def script(app: Conversation) -> None:
        if left[0]:
            left[0] -= 1
            app.reset()
            return
        await replies(ok(b"again"))(app)

    return script


@at_a_site()
async def test_a_request_that_a_dying_app_has_not_read_waits_for_its_next_start(here: Site):
    await here.app(dying(2))
    client = await here.client()
    client.send(get())
    assert (await client.answer())[1] == b"again"
    assert here.manager.reports == [("notes:alice", "reset")] * 2


@at_a_site()
async def test_a_post_that_a_dying_app_may_have_read_is_502(here: Site):
    await here.app(dying(1))
    client = await here.client()
    client.send(POST)
    assert (await client.answer())[0].startswith(b"HTTP/1.1 502 ")
    assert here.apps[0].connections == 1


@at_a_site()
async def test_an_app_that_resets_every_connection_is_502(here: Site):
    await here.app(dying(9))
    client = await here.client()
    client.send(get())
    assert (await client.answer())[0].startswith(b"HTTP/1.1 502 ")
    assert here.apps[0].connections == 3


LEASE_ERRORS = {
    404: NotFound("no such tenant"),
    502: StartFailed("exited with 1: secret/internal/path"),
    503: Disabled("disabled"),
    504: StartTimeout("not ready"),
    500: Internal("oops"),
}


@pytest.mark.parametrize("status", LEASE_ERRORS)
def test_errors_of_the_manager_become_one_status_each_and_tell_nothing_internal(status: int):
    @at_a_site()
    async def case(here: Site):
        here.manager.errors["notes:alice"] = LEASE_ERRORS[status]
        client = await here.client()
        client.send(get())
        head, body = await client.answer()
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"secret" not in body and b"oops" not in body
        assert bool(fields(head, b"retry-after")) is (status in (502, 504))
        client.send(get())  # the connection stays
        await client.answer()

    case()


@at_a_site()
async def test_an_overloaded_manager_asks_to_come_again(here: Site):
    error: TenementError = Overloaded("too many", retry_after_s=7)
    here.manager.errors["notes:alice"] = error
    client = await here.client()
    client.send(get())
    head, _ = await client.answer()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert fields(head, b"retry-after") == [b"7"]


@at_a_site()
async def test_a_disabled_tenant_is_answered_without_the_manager(here: Site):
    here.configure(tenants={"notes:alice": {"enabled": False}})
    client = await here.client()
    client.send(get())
    assert (await client.answer())[0].startswith(b"HTTP/1.1 503 ")
    assert here.manager.calls == []


@at_a_site()
async def test_a_body_that_comes_while_the_tenant_starts_arrives_whole_and_once(here: Site):
    body = bytes(range(256)) * 20_000
    seen: list[bytes] = []

    async def script(app: Conversation) -> None:
        head = await app.head()
        seen.append(await app.exactly(content_length(head)))
        app.send(ok())

    await here.app(script)
    here.manager.gate.clear()
    client = await here.client()
    client.send(get(b"/", b"Content-Length: %d" % len(body), method=b"POST") + body)
    await eventually(lambda: bool(here.manager.calls))
    here.manager.gate.set()
    assert (await client.answer())[1] == b"hello"
    assert seen == [body]


@at_a_site()
async def test_requests_that_wait_for_one_tenant_share_one_call(here: Site):
    await here.app(replies(ok()))
    here.manager.gate.clear()
    clients = [await here.client() for _ in range(20)]
    for client in clients:
        client.send(get())
    await eventually(lambda: bool(here.manager.calls))
    here.manager.gate.set()
    for client in clients:
        assert (await client.answer())[1] == b"hello"
    assert here.manager.calls == ["notes:alice"]


@at_a_site()
async def test_a_client_that_leaves_while_waiting_is_forgotten_and_the_lease_released(here: Site):
    app = await here.app(replies(ok()))
    here.manager.gate.clear()
    client = await here.client()
    client.send(get())
    await eventually(lambda: bool(here.manager.calls))
    client.reset()
    await eventually(lambda: not here.worker.connections)
    # The wait is given up; the grant that comes all the same is given back.
    assert here.manager.released == [("notes:alice", 0)]
    here.manager.gate.set()
    await eventually(lambda: here.manager.released == [("notes:alice", 0), ("notes:alice", 1)])
    assert app.connections == 0


@at_a_site()
async def test_a_request_that_comes_after_the_others_gave_up_still_gets_its_lease(here: Site):
    app = await here.app(replies(ok()))
    here.manager.gate.clear()
    here.manager.errors["notes:alice"] = Conflict("notes:alice: the caller waits no longer")
    first = await here.client()
    first.send(get())
    await eventually(lambda: bool(here.manager.calls))
    first.reset()
    await eventually(lambda: not here.worker.connections)
    second = await here.client()
    second.send(get())
    await eventually(lambda: bool(here.worker.leases._wanted["notes:alice"].waiters))

    def second_call_succeeds(name: str) -> None:
        if len(here.manager.calls) > 1:
            del here.manager.errors[name]

    here.manager.on_lease = second_call_succeeds
    here.manager.gate.set()
    assert b" 200 " in await second.head()
    assert app.connections == 1


@at_a_site()
async def test_a_client_that_resets_an_upload_nobody_reads_is_noticed(here: Site):
    here.manager.gate.clear()
    client = await here.client()
    client.send(get(b"/", b"Content-Length: 50000000", method=b"POST") + b"x" * 50_000_000)
    await eventually(lambda: bool(here.manager.calls))
    client.reset()
    await eventually(lambda: not here.worker.connections)
    assert here.manager.released == [("notes:alice", 0)]
    here.manager.gate.set()


@at_a_site()
async def test_the_apps_connection_closes_when_its_client_leaves(here: Site):
    ended = asyncio.Event()

    async def script(app: Conversation) -> None:
        await app.head()
        app.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        assert await app.rest() == b""
        ended.set()

    await here.app(script)
    client = await here.client()
    client.send(get())
    await client.head()
    client.reset()
    await asyncio.wait_for(ended.wait(), WAIT_S)
    await eventually(lambda: bool(here.manager.released))


@at_a_site(half_closed_s=0.2)
async def test_a_silent_stream_ends_soon_after_its_client_closed(here: Site):
    ended = asyncio.Event()

    async def script(app: Conversation) -> None:
        await app.head()
        app.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        await app.rest()
        ended.set()

    await here.app(script)
    client = await here.client()
    client.send(get())
    await client.head()
    client.shut()  # all that a killed client's kernel sends
    await asyncio.wait_for(ended.wait(), WAIT_S)


@at_a_site()
async def test_a_client_that_shut_its_side_gets_its_answer(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        app.send(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
        for _ in range(4):
            app.send(b"x" * 10)
            await app.drain()
            await asyncio.sleep(0.05)

    await here.app(script)
    client = await here.client()
    client.send(get())
    client.shut()
    assert (await client.rest()).endswith(b"\r\n\r\n" + b"x" * 40)


@at_a_site()
async def test_pipelined_requests_of_a_client_that_shut_its_side_are_all_answered(here: Site):
    await here.app(replies(ok(b"1"), ok(b"2"), ok(b"3")))
    client = await here.client()
    client.send(get() * 3)
    client.shut()
    received = await client.rest()
    assert received.count(b"200 OK") == 3


@at_a_site()
async def test_an_upload_that_ends_early_ends_the_apps_connection(here: Site):
    seen: list[bytes] = []

    async def script(app: Conversation) -> None:
        await app.head()
        seen.append(await app.exactly(4))
        seen.append(await app.rest())

    await here.app(script)
    client = await here.client()
    client.send(get(b"/", b"Content-Length: 10", method=b"POST") + b"half")
    await eventually(lambda: seen == [b"half"])
    client.shut()
    assert await client.rest() == b""
    await eventually(lambda: seen == [b"half", b""])


@at_a_site()
async def test_errors_are_pages_for_browsers_and_json_for_others(here: Site):
    client = await here.client()
    client.send(get(b"/", b"Accept: text/html,*/*", host=b"no.localhost"))
    head, body = await client.answer()
    assert fields(head, b"content-type") == [b"text/html; charset=utf-8"]
    assert b"<title>Not Found</title>" in body
    assert fields(head, b"x-request-id")[0] in body
    client.send(get(b"/", b"Accept: application/json", host=b"no.localhost"))
    head, body = await client.answer()
    assert fields(head, b"content-type") == [b"application/json"]
    assert b'"status": 404' in body
    client.send(get(host=b"no.localhost", method=b"HEAD") + get(host=b"no.localhost"))
    assert content_length(await client.head()) > 0
    assert (await client.head()).startswith(b"HTTP/1.1 404 ")
