"""Headers of the PROXY protocol: the parser, and connections that begin with one."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenement.proxy.proxy_protocol import SIZE_MAX, BadHeader, Header, parse
from tenement.proxy.running import drain
from tests.unit.proxy.harness import Conversation, Site, at_a_site, fields, get, ok

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 80\r\n"


def v2(command: int, family: int, payload: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(payload).to_bytes(2) + payload


def v2_of(client: str, extras: bytes = b"") -> bytes:
    address = ip_address(client)
    family = 0x11 if address.version == 4 else 0x21
    return v2(0x21, family, address.packed + bytes(len(address.packed)) + b"\x9c\x40\0\x50" + extras)


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (V1, "203.0.113.9"),
        (b"PROXY TCP6 2001:DB8::1 ::1 1 65535\r\n", "2001:db8::1"),
        (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 1 2\r\n", "203.0.113.9"),
        (b"PROXY UNKNOWN\r\n", ""),
        (b"PROXY UNKNOWN ffff:f::1 ffff::1 65535 65535\r\n", ""),
        (v2_of("203.0.113.9"), "203.0.113.9"),
        (v2_of("2001:db8::1", b"\x01\0\x02h2"), "2001:db8::1"),
        (v2(0x20, 0x00, b""), ""),
        (v2(0x20, 0x11, b"\1\2\3\4\5\6\7\x08\0\1\0\2"), ""),
        (v2(0x21, 0x00, b"whatever"), ""),
        (v2(0x21, 0x31, bytes(216)), ""),
    ],
)
def test_a_header_names_the_client(header: bytes, client: str):
    assert parse(header + b"GET / HTTP/1.1\r\n") == Header(client, len(header))
    assert [parse(header[:size]) for size in range(len(header))] == [None] * len(header)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        b"PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        b"PROXY TCP4 1.2.3.400 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\nGET / HTTP/1.1\r\n",
        b"PROXY UNIX a b\r\n",
        b"PROXY UNKNOWN " + b"a" * 100,
        v2(0x11, 0x11, bytes(12)),
        v2(0x22, 0x11, bytes(12)),
        v2(0x21, 0x13, bytes(12)),
        v2(0x21, 0x11, bytes(11)),
        v2(0x21, 0x21, bytes(35)),
        v2(0x21, 0x11, bytes(SIZE_MAX)),
    ],
)
def test_what_is_no_header_is_refused(data: bytes):
    with pytest.raises(BadHeader):
        parse(data)


@given(st.ip_addresses(), st.binary(max_size=200), st.binary(max_size=50))
def test_whatever_address_was_put_into_a_header_comes_out(
    address: IPv4Address | IPv6Address, extras: bytes, rest: bytes
):
    shown = str(getattr(address, "ipv4_mapped", None) or address)
    header = v2_of(str(address), extras)
    assert parse(header + rest) == Header(shown, len(header))
    line = f"PROXY TCP{address.version} {address} {address} 1 2\r\n".encode()
    assert parse(line + rest) == Header(shown, len(line))


@given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21"]), st.binary())
def test_any_bytes_are_a_header_or_part_of_one_or_refused(beginning: bytes, data: bytes):
    data = beginning + data
    try:
        header = parse(data)
    except BadHeader:
        return
    if header is None:
        assert len(data) < SIZE_MAX
    else:
        assert header.end <= min(len(data), SIZE_MAX)
        assert not header.client or ip_address(header.client)


async def origin(app: Conversation) -> None:
    """Answer with the client's address as the app is told it."""
    while True:
        (value,) = fields(await app.head(), b"X-Forwarded-For")
        app.send(ok(value))


@pytest.mark.parametrize("header", [V1, v2_of("203.0.113.9", b"\x04\0\x01\0")])
@pytest.mark.parametrize("pieces", [1, 1000])
def test_an_announced_client_is_known_by_its_own_address(header: bytes, pieces: int):
    @at_a_site()
    async def case(here: Site):
        here.configure(proxy_protocol_from=["127.0.0.0/8"])
        await here.app(origin)
        client = await here.client()
        for piece in [header + get()] if pieces == 1 else [bytes([byte]) for byte in header + get()]:
            client.send(piece)
            await client.drain()
        assert (await client.answer())[1] == b"203.0.113.9"
        client.send(get(b"/again"))
        assert (await client.answer())[1] == b"203.0.113.9"
        assert [entry.peer for entry in here.access._queue] == ["203.0.113.9"] * 2
        (found,) = here.worker.clients
        assert found.peer == "203.0.113.9"

    case()


@at_a_site()
async def test_a_load_balancer_that_speaks_for_itself_has_its_own_address(here: Site):
    here.configure(proxy_protocol_from=["127.0.0.1"])
    await here.app(origin)
    client = await here.client()
    client.send(v2(0x20, 0, b"") + get())
    assert (await client.answer())[1] == b"127.0.0.1"


@at_a_site()
async def test_a_forwarded_address_counts_only_if_the_announced_client_is_trusted(here: Site):
    here.configure(proxy_protocol_from=["127.0.0.1"], trusted_proxies=["127.0.0.1"])
    await here.app(origin)
    client = await here.client()
    client.send(V1 + get(b"/", b"X-Forwarded-For: 192.0.2.77"))
    assert (await client.answer())[1] == b"203.0.113.9"


@at_a_site()
async def test_a_connection_that_has_to_be_announced_and_is_not_is_closed(here: Site):
    here.configure(proxy_protocol_from=["127.0.0.1"])
    assert await here.ask(get()) == b""
    assert here.worker.connections == 0


@pytest.mark.parametrize("header", [V1, v2_of("203.0.113.9")])
def test_nobody_else_may_announce_a_client(header: bytes):
    @at_a_site()
    async def case(here: Site):
        for networks in ([], ["192.0.2.0/24"]):
            here.configure(proxy_protocol_from=networks)
            assert (await here.ask(header + get())).startswith(b"HTTP/1.1 400 ")
        assert here.manager.calls == []

    case()


@at_a_site(head_timeout_s=0.1)
async def test_a_header_that_does_not_come_is_not_waited_for(here: Site):
    here.configure(proxy_protocol_from=["127.0.0.1"])
    client = await here.client()
    client.send(V1[:10])
    assert await client.rest() == b""


@at_a_site(head_timeout_s=30, drain_s=5)
async def test_a_worker_that_ends_does_not_wait_for_a_header(here: Site):
    here.configure(proxy_protocol_from=["127.0.0.1"])
    client = await here.client()
    client.send(V1[:10])
    while here.worker.connections == 0:
        await client.drain()
    await drain(here.worker, here.servers)
    assert await client.rest() == b""
