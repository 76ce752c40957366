"""TLS in front of a worker: selection, alerts, limits, and that bytes pass as they do without it."""

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tenement.proxy.document import Change
from tenement.proxy.running import Listener, listen
from tenement.proxy.tls_connection import Handshakes, TlsConnection
from tenement.tls.selection import Certificate
from tests.unit.certificates import Made
from tests.unit.proxy.harness import Conversation, Site, at_a_site, eventually, fields, get, ok, replies

ALICE = "alice.notes.localhost"
BOB = "bob.notes.localhost"


class Secure:
    """A site that also speaks TLS, with a certificate for alice and another for the base domain."""

    def __init__(self, here: Site, directory: Path) -> None:
        self.here = here
        self.directory = directory
        self.made: dict[str, Made] = {}
        self.port = 0

    async def start(self, **policy: object) -> None:
        names = {"alice": ALICE, "base": "localhost"}
        certificates = {key: self.certificate(key, name) for key, name in names.items()}
        tls = {"enabled": True, "default": "localhost", **policy}
        self.here.configure(tls=tls, certificates=certificates, challenges={"token": "token.print"})
        sock = socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        await listen(self.here.worker, [Listener(sock, b"https")])

    def certificate(self, key: str, *names: str, version: str = "1") -> dict[str, object]:
        made = self.made[key] = Made(*names, days=20000)
        path = self.directory / f"{key}.pem"
        path.write_text(made.key_pem + made.chain)
        return {"names": names, "path": str(path), "version": version}

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    async def client(self, name: str | None = ALICE) -> Conversation:
        connecting = asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.context(), server_hostname=name or "", limit=1 << 22
        )
        return Conversation(*await asyncio.wait_for(connecting, 5))

    async def leaf(self, name: str | None = ALICE) -> str:
        """The certificate that is shown for a name."""
        client = await self.client(name)
        der = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        client.close()
        return ssl.DER_cert_to_PEM_cert(der)


def secured(test: Callable[[Secure], object], **policy: object) -> Callable[[], None]:
    @at_a_site()
    async def run(here: Site) -> None:
        with tempfile.TemporaryDirectory() as directory:
            secure = Secure(here, Path(directory))
            await secure.start(**policy)
            await test(secure)  # type: ignore[misc]

    return run


def with_tls(**policy: object) -> Callable[[Callable[[Secure], object]], Callable[[], None]]:
    def decorate(test: Callable[[Secure], object]) -> Callable[[], None]:
        return secured(test, **policy)

    return decorate


@with_tls()
async def test_a_request_over_tls_reaches_the_app_as_https(secure: Secure):
    heads: list[bytes] = []

    async def script(app: Conversation) -> None:
        while True:
            heads.append(await app.head())
            app.send(ok())

    await secure.here.app(script)
    client = await secure.client()
    for _ in range(2):
        client.send(get())
        assert (await client.answer())[1] == b"hello"
    assert fields(heads[0], b"X-Forwarded-Proto") == [b"https"]
    client.close()


@with_tls()
async def test_a_client_is_announced_before_its_handshake(secure: Secure):
    heads: list[bytes] = []

    async def script(app: Conversation) -> None:
        heads.append(await app.head())
        app.send(ok())
        await app.rest()

    secure.here.configure(proxy_protocol_from=["127.0.0.1"])
    await secure.here.app(script)
    reader, writer = await asyncio.open_connection("127.0.0.1", secure.port)
    writer.write(b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 443\r\n")
    await asyncio.wait_for(writer.start_tls(secure.context(), server_hostname=ALICE), 5)
    client = Conversation(reader, writer)
    client.send(get())
    assert (await client.answer())[1] == b"hello"
    assert fields(heads[0], b"X-Forwarded-For") == [b"203.0.113.9"]
    assert fields(heads[0], b"X-Forwarded-Proto") == [b"https"]
    client.close()


@with_tls()
async def test_a_name_without_certificate_is_refused_by_an_alert(secure: Secure):
    for name in (BOB, "x.test"):
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            await secure.client(name)


@with_tls()
async def test_a_client_without_sni_gets_the_base_domains_certificate(secure: Secure):
    assert (await secure.leaf(None)).strip() == secure.made["base"].leaf_pem.strip()
    assert (await secure.leaf(ALICE)).strip() == secure.made["alice"].leaf_pem.strip()


@with_tls()
async def test_another_host_than_the_handshakes_is_misdirected(secure: Secure):
    await secure.here.app(replies(ok()))
    client = await secure.client()
    client.send(get(host=BOB.encode()))
    assert (await client.answer())[0].startswith(b"HTTP/1.1 421 ")
    client.send(get(host=b"Alice.Notes.localhost.:443"))
    assert (await client.answer())[0].startswith(b"HTTP/1.1 200 ")
    client.close()


@with_tls()
async def test_plain_requests_are_redirected_where_there_is_a_certificate(secure: Secure):
    await secure.here.app(replies(ok()), "notes:bob")
    client = await secure.here.client()
    client.send(get(b"/x?y", host=ALICE.encode() + b":80"))
    head, _ = await client.answer()
    assert head.startswith(b"HTTP/1.1 308 ")
    assert fields(head, b"Location") == [f"https://{ALICE}/x?y".encode()]
    client.send(get(host=BOB.encode()))
    assert (await client.answer())[0].startswith(b"HTTP/1.1 200 ")


@with_tls()
async def test_a_proxy_that_ends_tls_itself_is_not_redirected(secure: Secure):
    await secure.here.app(replies(ok()))
    secure.here.configure(trusted_proxies=["127.0.0.1"])
    client = await secure.here.client()
    client.send(get(b"/", b"X-Forwarded-Proto: https"))
    assert (await client.answer())[0].startswith(b"HTTP/1.1 200 ")


@with_tls()
async def test_challenges_are_answered_without_the_app(secure: Secure):
    client = await secure.here.client()
    for path, status, body in (("token", 200, b"token.print"), ("other", 404, None)):
        client.send(get(f"/.well-known/acme-challenge/{path}".encode()))
        head, text = await client.answer()
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert body in (None, text)
    secure.here.worker.routes_changed(Change(challenges={"token": None, "new": "new.print"}))
    client.send(get(b"/.well-known/acme-challenge/new"))
    assert (await client.answer())[1] == b"new.print"
    assert secure.here.manager.calls == []


@with_tls(hsts_s=60)
async def test_hsts_is_on_every_answer_over_tls(secure: Secure):
    await secure.here.app(replies(ok()))
    client = await secure.client()
    for line in (b"X: y", b"Connection: close"):
        client.send(get(b"/", line))
        head, _ = await client.answer()
        assert fields(head, b"Strict-Transport-Security") == [b"max-age=60"]


@with_tls()
async def test_large_bodies_pass_both_ways_past_a_slow_reader(secure: Secure):
    size = 3 << 20

    async def script(app: Conversation) -> None:
        await app.head()
        body = await app.exactly(size)
        app.send(ok(body[::-1]))
        await app.drain()

    await secure.here.app(script)
    client = await secure.client()
    body = bytes(range(256)) * (size // 256)
    client.send(b"POST / HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n" % (ALICE.encode(), size) + body)
    await client.drain()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(0.1)
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    await client.head()
    assert await client.exactly(size) == body[::-1]
    client.close()


@with_tls()
async def test_an_answer_that_breaks_off_does_not_look_complete(secure: Secure):
    async def script(app: Conversation) -> None:
        await app.head()
        app.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await app.drain()
        app.reset()

    await secure.here.app(script)

    def ask() -> bytes:
        sock = socket.create_connection(("127.0.0.1", secure.port), timeout=5)
        with secure.context().wrap_socket(sock, server_hostname=ALICE) as tls:
            tls.sendall(get())
            received = b""
            while data := tls.recv(4096):
                received += data
        return received

    assert not (await asyncio.to_thread(ask)).endswith(b"0\r\n\r\n")


@with_tls()
async def test_the_hello_alone_asks_for_the_lease(secure: Secure):
    await secure.here.app(replies(ok()))
    client = await secure.client()
    manager = secure.here.manager
    await eventually(lambda: manager.calls == ["notes:alice"])
    # Unused it is given back, although the connection stays.
    await eventually(lambda: manager.released == [("notes:alice", 1)])
    client.close()


@with_tls()
async def test_a_failed_early_wake_costs_the_request_nothing(secure: Secure):
    client = await secure.client()
    await eventually(lambda: secure.here.manager.calls == ["notes:alice"])
    await secure.here.app(replies(ok()))
    client.send(get())
    assert (await client.answer())[0].startswith(b"HTTP/1.1 200 ")
    client.close()


@with_tls()
async def test_scanners_wake_few(secure: Secure):
    names = [f"t{number}" for number in range(60)]
    here = secure.here
    here.manager.gate.clear()
    tenants = {f"notes:{name}": {} for name in names}
    wild = secure.certificate("wild", "*.notes.localhost")
    here.configure(tenants=tenants, certificates={"wild": wild})
    for name in names:
        (await secure.client(f"{name}.notes.localhost")).close()
    assert 0 < len(here.manager.calls) <= 32
    here.manager.gate.set()


@with_tls()
async def test_a_renewed_certificate_is_used_and_a_broken_one_is_not(secure: Secure):
    old = await secure.leaf()
    path = secure.directory / "alice.pem"
    path.write_text("half of")
    renewed = Certificate((ALICE,), str(path), "2")
    secure.here.worker.routes_changed(Change(certificates={"alice": renewed}))
    assert await secure.leaf() == old
    secure.certificate("alice", ALICE)
    secure.here.worker.routes_changed(Change(certificates={"alice": Certificate((ALICE,), str(path), "3")}))
    assert (await secure.leaf()).strip() == secure.made["alice"].leaf_pem.strip()
    secure.here.worker.routes_changed(Change(certificates={"alice": None}))
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        await secure.client()


@with_tls()
async def test_what_is_no_tls_is_cut_off_at_once(secure: Secure):
    reader, writer = await asyncio.open_connection("127.0.0.1", secure.port)
    writer.write(get())
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


@contextlib.asynccontextmanager
async def listening(
    handshakes: Handshakes, timeout_s: float
) -> AsyncIterator[Callable[[], Awaitable[Conversation]]]:
    """A server that only ever shakes hands; gives what connects to it and says nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = await asyncio.get_running_loop().create_server(
        lambda: TlsConnection(context, handshakes, asyncio.Protocol, timeout_s), "127.0.0.1", 0
    )
    clients: list[Conversation] = []

    async def connect() -> Conversation:
        clients.append(Conversation(*await asyncio.open_connection(*server.sockets[0].getsockname())))
        return clients[-1]

    try:
        yield connect
    finally:
        for client in clients:
            client.close()
        server.close()


@at_a_site()
async def test_one_handshake_too_many_ends_the_oldest(here: Site):
    handshakes = Handshakes(limit=2)
    async with listening(handshakes, timeout_s=60.0) as connect:
        clients = [await connect() for _ in range(4)]
        for client in clients[:2]:
            assert await client.rest() == b""
        for client in clients[2:]:
            client.close()
        await asyncio.wait_for(handshakes.over(), 5)


@at_a_site()
async def test_a_handshake_that_stalls_is_cut(here: Site):
    handshakes = Handshakes()
    async with listening(handshakes, timeout_s=0.1) as connect:
        assert await (await connect()).rest() == b""
        await asyncio.wait_for(handshakes.over(), 5)
