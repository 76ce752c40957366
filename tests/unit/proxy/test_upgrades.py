"""Upgraded connections: only those asked for, then bytes both ways until both sides are done."""

import asyncio

import pytest

from tenement.errors import Disabled
from tests.unit.proxy.harness import Conversation, Site, at_a_site, eventually, fields, get, ok

HANDSHAKE = get(
    b"/chat",
    b"Connection: keep-alive, Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Protocol: v2.app, v1.app, tok.abc",
)
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: v1.app\r\n\r\n"
)


@at_a_site()
async def test_a_handshake_passes_and_then_bytes_both_ways(here: Site):
    seen: list[bytes] = []

    async def script(app: Conversation) -> None:
        seen.append(await app.head())
        app.send(SWITCHED + b"welcome")
        while data := await app.some():
            app.send(data[::-1])

    await here.app(script)
    client = await here.client()
    client.send(HANDSHAKE)
    assert await client.head() == SWITCHED
    assert await client.exactly(7) == b"welcome"
    client.send(b"\x81\x03abc")
    assert await client.exactly(5) == b"cba\x03\x81"
    assert fields(seen[0], b"upgrade") == [b"websocket"]
    assert fields(seen[0], b"connection") == [b"Upgrade"]
    assert fields(seen[0], b"sec-websocket-protocol") == [b"v2.app, v1.app, tok.abc"]


@at_a_site()
async def test_the_first_request_to_a_sleeping_tenant_may_be_an_upgrade(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        app.send(SWITCHED)
        app.send(await app.exactly(5))
        await app.rest()

    await here.app(script)
    here.manager.gate.clear()
    client = await here.client()
    client.send(HANDSHAKE + b"early")
    await eventually(lambda: bool(here.manager.calls))
    here.manager.gate.set()
    await client.head()
    assert await client.exactly(5) == b"early"
    assert here.worker.leases.held["notes:alice"].active == 1


@at_a_site()
async def test_an_upgrade_that_is_declined_is_an_answer_like_any_other(here: Site):
    async def script(app: Conversation) -> None:
        while True:
            await app.head()
            app.send(ok(b"no"))

    await here.app(script)
    client = await here.client()
    client.send(HANDSHAKE + get())
    assert (await client.answer())[1] == b"no"
    assert (await client.answer())[1] == b"no"


@at_a_site()
async def test_other_protocols_may_be_upgraded_to(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        app.send(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: Mine/2\r\n\r\n")
        app.send(await app.exactly(3))

    await here.app(script)
    client = await here.client()
    client.send(get(b"/", b"Connection: upgrade", b"Upgrade: other, mine/2"))
    assert fields(await client.head(), b"upgrade") == [b"Mine/2"]
    client.send(b"abc")
    assert await client.rest() == b"abc"


@pytest.mark.parametrize("lines", [[b"Upgrade: websocket"], [b"Connection: upgrade", b"Upgrade: other"], []])
def test_an_upgrade_that_was_not_asked_for_is_a_lie(lines: list[bytes]):
    @at_a_site()
    async def case(here: Site):
        async def script(app: Conversation) -> None:
            await app.head()
            app.send(SWITCHED)
            assert await app.rest() == b""

        await here.app(script)
        client = await here.client()
        client.send(get(b"/", *lines))
        assert (await client.answer())[0].startswith(b"HTTP/1.1 502 ")

    case()


@at_a_site()
async def test_large_messages_pass_both_ways(here: Site):
    size = 5 << 20

    async def script(app: Conversation) -> None:
        await app.head()
        app.send(SWITCHED)
        app.send(await app.exactly(size))
        await app.rest()

    await here.app(script)
    client = await here.client()
    client.send(HANDSHAKE)
    await client.head()
    message = bytes(range(256)) * (size // 256)
    client.send(message)
    assert await client.exactly(size) == message


@at_a_site()
async def test_when_the_app_ends_so_does_the_client(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        app.send(SWITCHED + b"\x88\x02\x0f\xa1")  # close, 4001

    await here.app(script)
    client = await here.client()
    client.send(HANDSHAKE)
    await client.head()
    assert await client.rest() == b"\x88\x02\x0f\xa1"
    client.close()
    await eventually(lambda: not here.worker.connections)
    await eventually(lambda: bool(here.manager.released))


@at_a_site()
async def test_when_the_client_ends_so_does_the_app(here: Site):
    received: list[bytes] = []

    async def script(app: Conversation) -> None:
        await app.head()
        app.send(SWITCHED)
        received.append(await app.rest())

    await here.app(script)
    for end in ("shut", "reset"):
        client = await here.client()
        client.send(HANDSHAKE)
        await client.head()
        client.send(b"bye")
        await client.drain()
        if end == "reset":
            await eventually(lambda: here.worker.connections == 1)
        getattr(client, end)()
        await eventually(lambda: not here.worker.connections)
    assert received[0] == b"bye"
    assert len(received) == 2


@at_a_site(tunnel_half_closed_s=0.1)
async def test_an_app_that_ignores_the_clients_end_is_cut(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        app.send(SWITCHED)
        await app.rest()
        await asyncio.Event().wait()

    await here.app(script)
    client = await here.client()
    client.send(HANDSHAKE)
    await client.head()
    client.shut()
    await eventually(lambda: not here.worker.connections)


@at_a_site()
async def test_an_upgraded_connection_keeps_the_lease(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        app.send(SWITCHED)
        await app.rest()

    await here.app(script)
    client = await here.client()
    client.send(HANDSHAKE)
    await client.head()
    await asyncio.sleep(0.3)  # three times the linger
    assert here.manager.released == []
    client.reset()
    await eventually(lambda: here.manager.released == [("notes:alice", 1)])


async def echoing(app: Conversation) -> None:
    await app.head()
    app.send(SWITCHED)
    while data := await app.some():
        app.send(data)


@at_a_site(lease_linger_s=0.05)
async def test_an_upgrade_that_idleness_ignores_holds_no_lease_but_sends_under_one(here: Site):
    here.policy(idle_ignores_upgrades=True)
    await here.app(echoing)
    client = await here.client()
    client.send(HANDSHAKE)
    await client.head()
    await eventually(lambda: here.manager.released == [("notes:alice", 1)])
    here.manager.gate.clear()
    client.send(b"\x81\x03abc")
    await eventually(lambda: len(here.manager.calls) == 2)
    # More comes while the lease is waited for, and nothing passes.
    client.send(b"\x81\x03def")
    here.manager.gate.set()
    assert await client.exactly(10) == b"\x81\x03abc\x81\x03def"
    await eventually(lambda: here.manager.released == [("notes:alice", 1)] * 2)


@at_a_site()
async def test_an_upgrade_that_idleness_ignores_is_told_before_its_tenant_sleeps(here: Site):
    here.policy(idle_ignores_upgrades=True)
    app = await here.app(echoing)
    client = await here.client()
    client.send(HANDSHAKE)
    await client.head()
    here.worker.revoked("notes", "bob", 1, "asleep")
    client.send(b"\x81\x03abc")
    assert await client.exactly(5) == b"\x81\x03abc"
    here.worker.revoked("notes", "alice", 1, "asleep")
    assert await client.rest() == b"\x88\x02\x03\xe9"
    await eventually(lambda: not app._tasks)


@at_a_site(lease_linger_s=0.05)
async def test_an_upgrade_whose_tenant_does_not_wake_is_told_so(here: Site):
    here.policy(idle_ignores_upgrades=True)
    await here.app(echoing)
    client = await here.client()
    client.send(HANDSHAKE)
    await client.head()
    await eventually(lambda: bool(here.manager.released))
    here.manager.errors["notes:alice"] = Disabled("notes:alice: disabled", tenant="notes:alice")
    client.send(b"\x81\x03abc")
    assert await client.rest() == b"\x88\x02\x03\xe9"
