"""Requests and answers pass through as they are, but for what belongs to each hop."""

import uvloop

from tests.unit.proxy.harness import Conversation, fields, get, ok, site


def run(coroutine):
    with __import__("asyncio").Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


def test_a_request_reaches_the_app_and_its_answer_comes_back():
    async def case():
        async with site() as here:
            seen = []

            async def script(app: Conversation) -> None:
                while True:
                    seen.append(await app.head())
                    app.send(ok(b"hello"))

            await here.app(script)
            client = await here.client()
            for _ in range(3):
                client.send(get(b"/a%2Fb?x=%20y", b"X-A: 1", b"x-a: 2"))
                head, body = await client.answer()
                assert head == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
                assert body == b"hello"
            assert seen[0].startswith(
                b"GET /a%2Fb?x=%20y HTTP/1.1\r\nHost: alice.notes.localhost\r\nX-A: 1\r\nx-a: 2\r\n"
            )
            assert fields(seen[0], b"x-forwarded-for") == [b"127.0.0.1"]
            assert here.apps[0].connections == 1
            assert here.manager.calls == ["notes:alice"]

    run(case())
