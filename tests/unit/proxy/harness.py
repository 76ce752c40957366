"""A worker between raw sockets: a scripted app behind it, a client in front, and a manager made of a
dictionary.

`FakeManager` has the interface of `leases.Bus` and nothing of the real manager. Apps and clients speak in
bytes, so that tests see exactly what is on the wire.
"""

import asyncio
import contextlib
import functools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import uvloop

from tenement.errors import NotFound, TenementError
from tenement.proxy.access import AccessLog
from tenement.proxy.pages import Pages
from tenement.proxy.running import Listener, drain, listen, sweep
from tenement.proxy.settings import Settings
from tenement.proxy.worker import Worker

TEMPLATES = Path(__file__).parents[3] / "templates" / "errors"
HOST = b"alice.notes.localhost"
WAIT_S = 5.0


class FakeManager:
    """Grants leases on the addresses it was given."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.errors: dict[str, TenementError] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.generation = 1
        self.calls: list[str] = []
        self.released: list[tuple[str, int]] = []
        self.reports: list[tuple[str, str]] = []
        self.on_lease: Callable[[str], None] = lambda name: None

    async def lease(self, service: str, id_: str) -> tuple[str, int]:
        name = f"{service}:{id_}"
        self.calls.append(name)
        await self.gate.wait()
        self.on_lease(name)
        if name in self.errors:
            raise self.errors[name]
        if name not in self.addresses:
            raise NotFound(f"{name}: no such tenant", tenant=name)
        return self.addresses[name], self.generation

    def release(self, service: str, id_: str, generation: int) -> None:
        self.released.append((f"{service}:{id_}", generation))

    def report(self, service: str, id_: str, generation: int, what: str) -> None:
        self.reports.append((f"{service}:{id_}", what))


class Conversation:
    """One raw connection, from either end; every wait is bounded."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def drain(self) -> None:
        await asyncio.wait_for(self.writer.drain(), WAIT_S)

    async def head(self) -> bytes:
        """Up to the empty line."""
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), WAIT_S)

    async def exactly(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), WAIT_S)

    async def until(self, end: bytes) -> bytes:
        return await asyncio.wait_for(self.reader.readuntil(end), WAIT_S)

    async def some(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(65536), WAIT_S)

    async def rest(self) -> bytes:
        """All until the connection ends, however it ends."""
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := await asyncio.wait_for(self.reader.read(65536), WAIT_S):
                received += data
        return received

    async def answer(self) -> tuple[bytes, bytes]:
        """Head and body of an answer framed by Content-Length (none: no body)."""
        head = await self.head()
        return head, await self.exactly(content_length(head))

    def shut(self) -> None:
        self.writer.write_eof()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """End with RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.writer.transport.abort()


type Script = Callable[[Conversation], Awaitable[None]]


class App:
    """A listening app: each connection runs the script; what went wrong in one fails the test."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.connections = 0
        self.address = ""
        self.failures: list[BaseException] = []

    async def start(self, path: Path | None = None) -> None:
        if path is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
            self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        else:
            self._server = await asyncio.start_unix_server(self._accept, path)
            self.address = f"unix:{path}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._script(Conversation(reader, writer))
        except (asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
            pass
        except BaseException as error:
            self.failures.append(error)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Site:
    """A worker serving `notes:alice` and what a test adds, on a port of its own."""

    def __init__(self, settings: Settings) -> None:
        self.manager = FakeManager()
        self.access = AccessLog("/nonexistent")
        self.worker = Worker(Pages(TEMPLATES), settings, self.access)
        self.worker.use_bus(self.manager)
        self.document: dict[str, Any] = {
            "domains": ["localhost"],
            "access_log": "all",
            "services": {"notes": {}},
            "tenants": {"notes:alice": {}, "notes:bob": {}},
        }
        self.apps: list[App] = []
        self.servers: list[asyncio.Server] = []
        self.port = 0
        self._clients: list[Conversation] = []
        self._sweep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.configure()
        sock = socket.create_server(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        self.servers = await listen(self.worker, [Listener(sock, b"http")])
        self._sweep = asyncio.create_task(sweep(self.worker))

    def configure(self, **changes: Any) -> None:
        self.document.update(changes)
        self.worker.routes_replaced(json.dumps(self.document))

    def policy(self, **settings: Any) -> None:
        self.configure(services={"notes": settings})

    async def app(self, script: Script, tenant: str = "notes:alice", path: Path | None = None) -> App:
        app = App(script)
        await app.start(path)
        self.apps.append(app)
        self.manager.addresses[tenant] = app.address
        return app

    async def client(self) -> Conversation:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
        client = Conversation(reader, writer)
        self._clients.append(client)
        return client

    async def ask(self, request: bytes) -> bytes:
        """Send bytes on a new connection; everything that comes back until it closes."""
        client = await self.client()
        client.send(request)
        return await client.rest()

    async def stop(self) -> None:
        for client in self._clients:
            client.close()
        assert self._sweep is not None
        self._sweep.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sweep
        await drain(self.worker, self.servers)
        for app in self.apps:
            await app.stop()
        for client in self._clients:
            with contextlib.suppress(Exception):
                await client.writer.wait_closed()
        failures = [failure for app in self.apps for failure in app.failures]
        if failures:
            raise failures[0]


@contextlib.asynccontextmanager
async def site(**settings: Any) -> AsyncIterator[Site]:
    """A site that is started, and stopped whatever happens. Deadlines are looked at every 20 ms."""
    settings = {
        "sweep_interval_s": 0.02,
        "idle_sweep_interval_s": 0.02,
        "lease_linger_s": 0.1,
        "drain_s": 0.5,
        "drain_idle_s": 0,
        **settings,
    }
    made = Site(Settings(**settings))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def at_a_site(**settings: Any) -> Callable[[Callable[[Site], Awaitable[None]]], Callable[[], None]]:
    """Make a test of a coroutine function that takes a site: on the loop that workers use, within bounded
    time.
    """

    def decorate(test: Callable[[Site], Awaitable[None]]) -> Callable[[], None]:
        async def run() -> None:
            async with site(**settings) as here:
                await test(here)

        def wrapper() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(asyncio.wait_for(run(), 4 * WAIT_S))

        functools.update_wrapper(wrapper, test)
        del wrapper.__wrapped__  # pytest would look there for arguments
        return wrapper

    return decorate


def content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def fields(head: bytes, name: bytes) -> list[bytes]:
    """The values of a field, in order."""
    return [
        value.strip()
        for line in head.split(b"\r\n")[1:]
        for found, _, value in [line.partition(b":")]
        if found.lower() == name.lower()
    ]


def get(path: bytes = b"/", *lines: bytes, host: bytes = HOST, method: bytes = b"GET") -> bytes:
    """A request without a body."""
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method, path), b"Host: " + host, *lines]) + b"\r\n\r\n"


def ok(body: bytes = b"hello", *lines: bytes) -> bytes:
    """An answer with a body."""
    return b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *lines]) + b"\r\n\r\n" + body


def replies(*answers: bytes) -> Script:
    """A script that reads heads of requests without bodies and answers each with the next answer, the last
    forever.
    """

    async def script(app: Conversation) -> None:
        count = 0
        while True:
            await app.head()
            app.send(answers[min(count, len(answers) - 1)])
            count += 1

    return script


async def eventually(condition: Callable[[], bool], what: str = "the condition") -> None:
    """Wait, bounded, for something that becomes true."""
    deadline = monotonic() + WAIT_S
    while not condition():
        assert monotonic() < deadline, what
        await asyncio.sleep(0.005)
