"""Connections to apps being made."""

import asyncio
import errno
import os
import socket
from typing import Final, cast

from tenement.proxy.settings import Settings
from tenement.proxy.upstream import Answered, UpstreamConnection, UpstreamPool

# Linux takes the port when the connection is made, so that one source address is good for more than 28,000 of
# them.
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_BACKLOG_PAUSE_S: Final = 0.005


class Connector:
    """Makes connections to apps, each in a task that is awaited when the worker ends."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, pool: UpstreamPool, exchange: Answered) -> None:
        """Make a connection for an exchange."""
        task = asyncio.get_running_loop().create_task(self._connect(pool, exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up connections being made."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connect(self, pool: UpstreamPool, exchange: Answered) -> None:
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                connection = await self._open(pool)
        except (OSError, TimeoutError) as error:
            exchange.connect_failed(error)
            return
        pool.connections.add(connection)
        exchange.connected(connection)

    async def _open(self, pool: UpstreamPool) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        sock = self._socket(pool.address)
        connection = UpstreamConnection(pool, sock)
        protocol = cast(asyncio.Protocol, connection)
        try:
            if sock.family == socket.AF_UNIX:
                await _connect(sock, pool.address.removeprefix("unix:"))
                await loop.create_unix_connection(lambda: protocol, sock=sock)
            else:
                host, _, port = pool.address.rpartition(":")
                await _connect(sock, (host, int(port)))
                await loop.create_connection(lambda: protocol, sock=sock)
        except BaseException:
            sock.close()
            raise
        return connection

    def _socket(self, address: str) -> socket.socket:
        """A socket for an address of the manager: `unix:PATH` or `IPV4:PORT`."""
        if address.startswith("unix:"):
            return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._settings.source_address:
                sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((self._settings.source_address, 0))
        except BaseException:
            sock.close()
            raise
        return sock


async def _connect(sock: socket.socket, address: str | tuple[str, int]) -> None:
    """Connect; on one machine that is nearly always done when the call returns. Raises OSError.

    The loop's own way would look every address up in another thread.
    """
    error = sock.connect_ex(address)
    if error == errno.EINPROGRESS:
        error = sock.connect_ex(address)
    while error == errno.EAGAIN and sock.family == socket.AF_UNIX:
        await asyncio.sleep(
            _BACKLOG_PAUSE_S
        )  # Its backlog is full, and there is nothing to wait on (connect(2)).
        error = sock.connect_ex(address)
    if error == errno.EALREADY:
        await _writable(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error not in (0, errno.EISCONN):
        raise OSError(error, os.strerror(error))


async def _writable(sock: socket.socket) -> None:
    """Wait until the connection is made, or cannot be."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(sock)
