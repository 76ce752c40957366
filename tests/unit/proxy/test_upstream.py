"""Connections to apps on a pair of sockets, at moments that a running loop would not let happen."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenement.proxy.connector import Connector, _connect
from tenement.proxy.response_head import ResponseHead
from tenement.proxy.settings import Settings
from tenement.proxy.upstream import UpstreamConnection, UpstreamPool


class Transport:
    def __init__(self) -> None:
        self.aborted = False

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        pass

    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


class Exchange:
    decodes_chunks = False

    def __init__(self) -> None:
        self.heard: list[object] = []

    def answer_whole(self, head: ResponseHead, data: bytes, reusable: bool) -> None:
        self.heard.append(data)

    def app_lost(self, error: Exception | None) -> None:
        self.heard.append(error)


class Pair:
    """A pooled connection and the app's end of it."""

    def __init__(self) -> None:
        settings = Settings()
        self.pool = UpstreamPool("127.0.0.1:1", Connector(settings), settings)
        self.sock, self.app = socket.socketpair()
        self.sock.setblocking(False)
        self.connection = UpstreamConnection(self.pool, self.sock)
        self.transport = Transport()
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]
        self.pool.connections.add(self.connection)
        self.pool.put(self.connection, 100.0)

    def close(self) -> None:
        self.sock.close()
        self.app.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def test_a_connection_whose_end_arrived_unread_carries_nothing_that_must_not_be_repeated(pair: Pair):
    pair.app.close()
    assert pair.pool.take(100.0, repeatable=False) is None
    assert pair.transport.aborted


def test_a_connection_with_unread_bytes_carries_nothing_that_must_not_be_repeated(pair: Pair):
    pair.app.send(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert pair.pool.take(100.0, repeatable=False) is None


def test_an_open_connection_used_a_moment_ago_carries_anything(pair: Pair):
    assert pair.pool.take(100.4, repeatable=False) is pair.connection


def test_one_unused_for_longer_carries_only_what_can_be_repeated(pair: Pair):
    assert pair.pool.take(101.0, repeatable=False) is None
    assert pair.pool.take(101.0, repeatable=True) is pair.connection


def test_an_answer_that_came_before_a_failed_write_is_not_lost(pair: Pair):
    connection = pair.pool.take(100.0, repeatable=True)
    assert connection is pair.connection
    exchange = Exchange()
    connection.begin(exchange, b"POST / HTTP/1.1\r\n\r\n", to_head=False)  # type: ignore[arg-type]
    answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig"
    pair.app.send(answer)
    connection.connection_lost(BrokenPipeError())
    assert exchange.heard[0] == answer


def test_a_closed_pool_keeps_nothing(pair: Pair):
    connection = pair.pool.take(100.0, repeatable=True)
    assert connection is not None
    pair.pool.close()
    connection.end(100.0, reusable=True)
    assert pair.transport.aborted and not pair.pool.connections


def test_connections_unused_for_long_are_closed(pair: Pair):
    pair.pool.sweep(129.0)
    assert not pair.transport.aborted
    pair.pool.sweep(130.0)
    assert pair.transport.aborted


def test_an_app_whose_backlog_is_full_is_waited_for(tmp_path: Path):
    async def case() -> None:
        path = str(tmp_path / "app")
        with socket.socket(socket.AF_UNIX) as app, contextlib.ExitStack() as stack:
            app.bind(path)
            app.listen(0)
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(path)
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            connecting = asyncio.create_task(_connect(sock, path))
            await asyncio.sleep(0.05)
            assert not connecting.done()
            stack.enter_context(app.accept()[0])
            await asyncio.wait_for(connecting, 2)

    asyncio.run(asyncio.wait_for(case(), 10))


def test_a_connection_that_takes_a_while_is_waited_for():
    async def case() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as app, contextlib.ExitStack() as stack:
            for _ in range(2):  # the second one fills the queue
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(app.getsockname())
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            connecting = asyncio.create_task(_connect(sock, app.getsockname()))
            await asyncio.sleep(0.05)
            assert not connecting.done()
            for _ in range(2):
                stack.enter_context(app.accept()[0])
            await asyncio.wait_for(connecting, 5)  # the kernel tries again after a second

    asyncio.run(asyncio.wait_for(case(), 10))


def test_a_refused_connection_is_told_as_such():
    with socket.create_server(("127.0.0.1", 0)) as app:
        where = app.getsockname()

    async def case() -> None:
        with socket.socket() as sock:
            sock.setblocking(False)
            await _connect(sock, where)

    with pytest.raises(ConnectionRefusedError):
        asyncio.run(case())
