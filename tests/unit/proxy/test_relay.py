"""Requests and answers pass through as they are, but for what belongs to each hop."""

import gzip
import re
import time
from email.utils import parsedate_to_datetime

import pytest

from tests.unit.proxy.harness import (
    HOST,
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


def undated(answer: bytes) -> bytes:
    """An answer without the Date that the proxy adds where the app sent none."""
    answer, count = re.subn(rb"\r\nDate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT(?=\r\n)", b"", answer)
    assert count == 1, answer
    return answer


def recorder(seen: list[bytes], answer: bytes = ok()):
    """A script that keeps the heads it gets."""

    async def script(app: Conversation) -> None:
        while True:
            seen.append(await app.head())
            app.send(answer)

    return script


@at_a_site()
async def test_requests_of_a_connection_share_a_lease_and_a_connection_to_the_app(here: Site):
    app = await here.app(replies(ok()))
    client = await here.client()
    for _ in range(3):
        client.send(get())
        head, body = await client.answer()
        assert undated(head) + body == ok()
    assert app.connections == 1
    assert here.manager.calls == ["notes:alice"]


@pytest.mark.parametrize("lines", [[], [b"X-A: 1", b"Connection: close"], [b"Keep-Alive: timeout=5"]])
def test_an_answer_is_dated_once(lines: list[bytes]):
    """Who passes on an answer without a Date has to add it; the app's own stays (RFC 9110, 6.6.1)."""

    @at_a_site()
    async def case(here: Site):
        own = b"dAtE: Mon, 01 Jan 2024 00:00:00 GMT"

        async def script(app: Conversation) -> None:
            while True:
                dated = b" /dated " in await app.head()
                app.send(ok(b"", *lines, *([own] if dated else [])))

        await here.app(script)
        for version in (b"HTTP/1.1", b"HTTP/1.0"):
            for more in ([], [b"Connection: close"]):
                client = await here.client()
                client.send(get(b"/", *more).replace(b"HTTP/1.1", version))
                (value,) = fields(await client.head(), b"date")
                assert abs(parsedate_to_datetime(value.decode()).timestamp() - time.time()) < 5
                client = await here.client()
                client.send(get(b"/dated", *more).replace(b"HTTP/1.1", version))
                head = await client.head()
                assert own in head
                assert len(fields(head, b"date")) == 1

    case()


@at_a_site()
async def test_answers_of_our_own_are_dated(here: Site):
    assert len(fields(await here.ask(b"nonsense\r\n\r\n"), b"date")) == 1
    client = await here.client()
    client.send(get(host=b"nobody.localhost"))
    assert len(fields((await client.answer())[0], b"date")) == 1


@at_a_site()
async def test_unix_sockets_are_upstreams_too(here: Site):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as directory:
        await here.app(replies(ok()), path=Path(directory) / "http.sock")
        client = await here.client()
        client.send(get())
        assert (await client.answer())[1] == b"hello"


TARGETS = [
    b"/a%2Fb/%41%27%28%29;x",
    b"/a//b/./../c",
    b"/%E4%BD%A0?q=%2B+%20&r=a/b&&=",
    b"/100%",
    b"/x%ff",
    b"/?",
    b"//",
]


@at_a_site()
async def test_targets_pass_byte_for_byte(here: Site):
    seen: list[bytes] = []
    await here.app(recorder(seen))
    client = await here.client()
    for target in TARGETS:
        client.send(get(target))
        await client.answer()
    assert [head.split(b" ")[1] for head in seen] == TARGETS


@at_a_site()
async def test_fields_keep_order_case_and_duplicates_both_ways(here: Site):
    seen: list[bytes] = []
    cookies = [b"Set-Cookie: %d=%d" % (n, n) for n in range(5)]
    lines = [*cookies, b"LINK: <a>", b"Link: <b>", b"WWW-Authenticate: Basic", b"WWW-Authenticate: Digest"]
    await here.app(recorder(seen, ok(b"", *lines)))
    client = await here.client()
    sent = [
        b"Accept-Language: de",
        b"X-A: 1",
        b"accept-LANGUAGE: en",
        b"X-A: 2",
        b"Empty:",
        b"Authorization: Basic eA==",
    ]
    client.send(get(b"/", *sent))
    head, _ = await client.answer()
    assert undated(head) == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + b"\r\n".join(lines) + b"\r\n\r\n"
    assert seen[0].split(b"\r\n")[1:8] == [b"Host: " + HOST, *sent]


@at_a_site()
async def test_compressed_bodies_are_not_touched(here: Site):
    body = gzip.compress(b"x" * 10_000)
    seen: list[bytes] = []
    await here.app(recorder(seen, ok(body, b"Content-Encoding: gzip", b'ETag: "1"')))
    client = await here.client()
    client.send(get(b"/", b"Range: bytes=0-1"))
    head, received = await client.answer()
    assert received == body
    assert fields(head, b"content-encoding") == [b"gzip"]
    assert fields(seen[0], b"accept-encoding") == []
    assert fields(seen[0], b"range") == [b"bytes=0-1"]


@at_a_site()
async def test_hop_by_hop_fields_end_here_both_ways(here: Site):
    seen: list[bytes] = []
    await here.app(
        recorder(seen, ok(b"", b"Connection: keep-alive, X-Mine", b"Keep-Alive: timeout=5", b"X-Mine: 1"))
    )
    client = await here.client()
    client.send(
        get(
            b"/",
            b"Connection: keep-alive, X-Secret, TE",
            b"X-Secret: 1",
            b"Keep-Alive: 5",
            b"Proxy-Connection: keep-alive",
            b"TE: trailers, deflate",
            b"Upgrade: x",
        )
    )
    head, _ = await client.answer()
    assert undated(head) == b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    for name in (b"x-secret", b"keep-alive", b"proxy-connection", b"upgrade"):
        assert fields(seen[0], name) == []
    assert fields(seen[0], b"te") == [b"trailers"]
    assert fields(seen[0], b"connection") == [b"TE"]


@at_a_site()
async def test_origin_fields_of_an_untrusted_client_are_replaced_by_the_truth(here: Site):
    seen: list[bytes] = []
    await here.app(recorder(seen))
    client = await here.client()
    forged = [
        b"X-Forwarded-For: 1.1.1.1",
        b"X-Forwarded-For: 2.2.2.2",
        b"X_Forwarded_For: 3.3.3.3",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: bob.notes.localhost",
        b"X-Forwarded-Prefix: /admin",
        b"Forwarded: for=1.2.3.4",
        b"X-Real-IP: 1.2.3.4",
    ]
    client.send(get(b"/", *forged))
    await client.answer()
    assert fields(seen[0], b"x-forwarded-for") == [b"127.0.0.1"]
    assert fields(seen[0], b"x-forwarded-proto") == [b"http"]
    assert fields(seen[0], b"x-forwarded-host") == [HOST]
    assert fields(seen[0], b"x-real-ip") == [b"127.0.0.1"]
    assert fields(seen[0], b"forwarded") == [b"for=127.0.0.1;host=" + HOST + b";proto=http"]
    assert b"1.1.1.1" not in seen[0] and b"3.3.3.3" not in seen[0] and b"/admin" not in seen[0]


@at_a_site()
async def test_a_trusted_proxy_is_believed_and_appended_to(here: Site):
    seen: list[bytes] = []
    here.configure(trusted_proxies=["127.0.0.0/8", "10.0.0.0/8"])
    await here.app(recorder(seen))
    client = await here.client()
    client.send(get(b"/", b"X-Forwarded-For: 6.6.6.6, 9.9.9.9, 10.1.1.1", b"X-Forwarded-Proto: https"))
    await client.answer()
    assert fields(seen[0], b"x-forwarded-for") == [b"6.6.6.6, 9.9.9.9, 10.1.1.1, 127.0.0.1"]
    assert fields(seen[0], b"x-forwarded-proto") == [b"https"]
    assert fields(seen[0], b"x-real-ip") == [b"9.9.9.9"]


@at_a_site()
async def test_a_request_id_is_kept_if_sane_and_made_otherwise(here: Site):
    seen: list[bytes] = []
    await here.app(recorder(seen))
    client = await here.client()
    for line in (b"X-Request-Id: My.Id-1", b"X-Request-Id: no spaces please", b"X-Other: 1"):
        client.send(get(b"/", line))
        await client.answer()
    ids = [fields(head, b"x-request-id") for head in seen]
    assert ids[0] == [b"My.Id-1"]
    assert all(len(each) == 1 and re.fullmatch(rb"[0-9a-f]{22}", each[0]) for each in ids[1:])
    assert ids[1] != ids[2]


@at_a_site()
async def test_a_chunked_request_passes_verbatim_with_extensions_and_trailers(here: Site):
    body = b'5;a="b"\r\nhello\r\n003\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n'
    seen: list[bytes] = []

    async def script(app: Conversation) -> None:
        await app.head()
        seen.append(await app.exactly(len(body)))
        app.send(ok())
        seen.append(await app.head())
        app.send(ok(b"second"))

    await here.app(script)
    client = await here.client()
    head = get(b"/", b"Transfer-Encoding: chunked", b"Trailer: X-Sum", method=b"POST")
    client.send(head + body[:7])
    await client.drain()
    for start in range(7, len(body)):
        client.send(body[start : start + 1])
    assert (await client.answer())[1] == b"hello"
    client.send(get())
    assert (await client.answer())[1] == b"second"
    assert seen[0] == body


@at_a_site()
async def test_a_chunked_answer_passes_verbatim_and_the_connection_stays(here: Site):
    body = b"5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"

    async def script(app: Conversation) -> None:
        while True:
            await app.head()
            app.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            for start in range(0, len(body), 4):
                app.send(body[start : start + 4])
                await app.drain()

    app = await here.app(script)
    client = await here.client()
    for _ in range(2):
        client.send(get())
        assert b"Transfer-Encoding: chunked" in await client.head()
        assert await client.exactly(len(body)) == body
    assert app.connections == 1


@at_a_site()
async def test_an_http_1_0_client_gets_the_payload_of_chunks_and_then_the_end(here: Site):
    body = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    await here.app(replies(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n" + body))
    received = await here.ask(b"GET / HTTP/1.0\r\nHost: " + HOST + b"\r\nConnection: keep-alive\r\n\r\n")
    assert undated(received) == b"HTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: close\r\n\r\nhello world"


@at_a_site()
async def test_http_1_0_clients_keep_the_connection_only_if_they_ask(here: Site):
    seen: list[bytes] = []
    await here.app(recorder(seen))
    assert (await here.ask(b"GET / HTTP/1.0\r\nHost: " + HOST + b"\r\n\r\n")).endswith(b"close\r\n\r\nhello")
    client = await here.client()
    for _ in range(2):
        client.send(b"GET / HTTP/1.0\r\nHost: " + HOST + b"\r\nConnection: keep-alive\r\n\r\n")
        head, _ = await client.answer()
        assert fields(head, b"connection") == [b"keep-alive"]
    assert seen[0].startswith(b"GET / HTTP/1.1\r\n")


@at_a_site()
async def test_an_answer_that_ends_with_its_connection_ends_the_clients(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        app.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\none")
        await app.drain()
        app.send(b"two")

    await here.app(script)
    received = await here.ask(get())
    assert undated(received) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nonetwo"


@at_a_site()
async def test_answers_without_body_are_told_apart_whatever_the_app_sends_with_them(here: Site):
    async def script(app: Conversation) -> None:
        while True:
            head = await app.head()
            if head.startswith(b"HEAD"):
                app.send(ok(b"wrong body"))
            elif head.startswith(b"DELETE"):
                app.send(b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\nX-A: 1\r\n\r\nabc")
            elif b"/not-modified" in head:
                app.send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n")
            else:
                app.send(ok(b"own"))

    await here.app(script)
    client = await here.client()
    client.send(get(method=b"HEAD"))
    assert undated(await client.head()) == b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"
    client.send(get(b"/not-modified"))
    assert undated(await client.head()) == b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n"
    client.send(get(method=b"DELETE"))
    assert undated(await client.head()) == b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"
    client.send(get())
    assert (await client.answer())[1] == b"own"


@at_a_site()
async def test_a_body_that_follows_the_answer_to_head_late_is_not_the_next_answer(here: Site):
    async def script(app: Conversation) -> None:
        if (await app.head()).startswith(b"HEAD"):
            app.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            await app.head()
            app.send(b"wrong")
        app.send(ok(b"right"))

    await here.app(script)
    client = await here.client()
    client.send(get(method=b"HEAD"))
    await client.head()
    client.send(get())
    assert (await client.answer())[1] == b"right"


@at_a_site()
async def test_heads_that_repeat_are_told_apart_by_their_bodies(here: Site):
    app = await here.app(replies(ok(b"first"), ok(b"other"), ok(b"third") + b"surplus", ok(b"fresh")))
    client = await here.client()
    for body in (b"first", b"other", b"third"):
        client.send(get())
        head, received = await client.answer()
        assert undated(head) + received == ok(body)
    assert app.connections == 1
    # Nobody knows what the app meant by what it sent behind its answer: that connection is over.
    client.send(get())
    assert (await client.answer())[1] == b"first"
    assert app.connections == 2


@at_a_site()
async def test_interim_answers_pass_before_the_final_one(here: Site):
    await here.app(replies(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 102 P\r\n\r\n" + ok()))
    client = await here.client()
    client.send(get())
    assert await client.head() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert (await client.head()).startswith(b"HTTP/1.1 102")
    assert (await client.answer())[1] == b"hello"
    old = await here.ask(b"GET / HTTP/1.0\r\nHost: " + HOST + b"\r\n\r\n")
    assert old.startswith(b"HTTP/1.1 200")


@at_a_site()
async def test_expect_continue_is_the_apps_to_answer(here: Site):
    async def script(app: Conversation) -> None:
        head = await app.head()
        assert fields(head, b"expect") == [b"100-continue"]
        app.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await app.exactly(5) == b"12345"
        app.send(ok())

    await here.app(script)
    client = await here.client()
    client.send(get(b"/", b"Content-Length: 5", b"Expect: 100-continue", method=b"POST"))
    assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"12345")
    assert (await client.answer())[1] == b"hello"


@at_a_site()
async def test_an_app_that_refuses_before_the_body_ends_the_connection_without_the_body(here: Site):
    seen: list[bytes] = []

    async def script(app: Conversation) -> None:
        await app.head()
        app.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
        seen.append(await app.rest())

    await here.app(script)
    client = await here.client()
    client.send(get(b"/", b"Content-Length: 104857600", b"Expect: 100-continue", method=b"POST"))
    assert (
        undated(await client.rest())
        == b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
    )
    await eventually(lambda: bool(seen))
    assert seen == [b""]


@at_a_site()
async def test_an_early_answer_reaches_a_client_that_is_still_uploading(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        await app.exactly(1000)
        app.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await app.drain()  # and closes on the rest of the upload

    await here.app(script)
    client = await here.client()
    client.send(get(b"/", b"Content-Length: 30000000", method=b"POST") + b"x" * 29_000_000)
    assert (await client.rest()).endswith(b"Connection: close\r\n\r\nbig")


@at_a_site()
async def test_pipelined_requests_are_answered_in_order(here: Site):
    async def script(app: Conversation) -> None:
        while True:
            head = await app.head()
            app.send(ok(head.split(b" ")[1]))

    await here.app(script)
    client = await here.client()
    paths = [b"/%d" % n for n in range(50)]
    client.send(b"".join(get(path) for path in paths))
    assert [(await client.answer())[1] for _ in paths] == paths


@at_a_site()
async def test_a_pipelined_request_behind_a_body_is_not_part_of_it(here: Site):
    async def script(app: Conversation) -> None:
        while True:
            head = await app.head()
            body = await app.exactly(content_length(head))
            app.send(ok(body or b"none"))

    await here.app(script)
    client = await here.client()
    client.send(get(b"/", b"Content-Length: 4", method=b"POST") + b"body" + get())
    assert (await client.answer())[1] == b"body"
    assert (await client.answer())[1] == b"none"


@at_a_site()
async def test_pipelined_refusals_do_not_recurse(here: Site):
    client = await here.client()
    count = 3000
    client.send(get(host=b"nobody.localhost") * count)
    for _ in range(count):
        head, _ = await client.answer()
        assert head.startswith(b"HTTP/1.1 404")


@at_a_site()
async def test_an_empty_line_before_a_request_is_skipped(here: Site):
    await here.app(replies(ok()))
    client = await here.client()
    for _ in range(2):
        client.send(b"\r\n" + get())
        assert (await client.answer())[1] == b"hello"


@at_a_site()
async def test_heads_that_come_byte_by_byte_are_heads(here: Site):
    seen: list[bytes] = []
    await here.app(recorder(seen))
    client = await here.client()
    request = get(b"/slow", b"X-A: b")
    for position in range(len(request)):
        client.send(request[position : position + 1])
        await client.drain()
    await client.answer()
    assert b"X-A: b\r\n" in seen[0]


@at_a_site()
async def test_an_absolute_target_goes_on_as_a_path(here: Site):
    seen: list[bytes] = []
    await here.app(recorder(seen))
    client = await here.client()
    for target in (b"http://" + HOST + b"/a?b", b"HTTP://ALICE.notes.localhost", b"http://" + HOST + b"?q"):
        client.send(get(target))
        await client.answer()
    client.send(get(b"*", method=b"OPTIONS"))
    await client.answer()
    assert [head.split(b" ")[1] for head in seen] == [b"/a?b", b"/", b"/?q", b"*"]


@at_a_site()
async def test_big_cookies_and_big_answer_heads_pass(here: Site):
    seen: list[bytes] = []
    await here.app(recorder(seen, ok(b"", b"X-Big: " + b"y" * 12_000)))
    client = await here.client()
    client.send(get(b"/", b"Cookie: " + b"x" * 12_000))
    head, _ = await client.answer()
    assert len(fields(head, b"x-big")[0]) == 12_000
    assert len(fields(seen[0], b"cookie")[0]) == 12_000


@at_a_site()
async def test_the_base_domain_is_served_by_the_root_upstream_without_a_lease(here: Site):
    app = await here.app(replies(ok(b"dashboard")))
    here.manager.addresses.clear()
    here.configure(root=app.address)
    client = await here.client()
    client.send(get(b"/api/instances", host=b"localhost"))
    assert (await client.answer())[1] == b"dashboard"
    assert here.manager.calls == []


@pytest.mark.parametrize("line", [b"Connection: close", b"Connection: Close, x"])
def test_a_client_that_asks_to_close_is_closed_after_the_answer(line: bytes):
    @at_a_site()
    async def case(here: Site):
        await here.app(replies(ok()))
        assert undated(await here.ask(get(b"/", line))) == (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
        )

    case()
