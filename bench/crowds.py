"""Many connections at once, from one process: idle ones, and WebSockets."""

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import Iterator

import uvloop
from aiohttp import ClientSession, ClientTimeout, ClientWebSocketResponse, TCPConnector
from measuring import Target

TIMEOUT_S = 60.0


def allow_files(count: int) -> None:
    """Let this process open so many files."""
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (count, max(count, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    )


@contextlib.contextmanager
def idle_connections(target: Target, count: int) -> Iterator[None]:
    """Open connections, have one request answered on each, and keep them until the end of the block."""
    request = f"GET / HTTP/1.1\r\nHost: {target.host}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", target.port), TIMEOUT_S))
            connection.sendall(request)
            if not connection.recv(65536).startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"{target.name} did not answer 200")
        yield


def websocket_messages_per_s(target: Target, host: str, count: int, messages: int) -> float:
    """Open WebSockets, then send `messages` one after the other on each. Every one must come back."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_websockets(target, host, count, messages))


async def _websockets(target: Target, host: str, count: int, messages: int) -> float:
    url = f"http://127.0.0.1:{target.port}/"
    connector = TCPConnector(limit=0)
    timeout = ClientTimeout(total=TIMEOUT_S)
    async with ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as tasks:
        opening = [
            tasks.create_task(session.ws_connect(url, headers={"Host": host}, max_msg_size=0))
            for _ in range(count)
        ]
        sockets = await asyncio.gather(*opening)
        began = time.monotonic()
        async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as talks:
            for each in sockets:
                talks.create_task(_talk(each, messages))
        took_s = time.monotonic() - began
        await asyncio.gather(*(each.close() for each in sockets))
    return count * messages / took_s


async def _talk(socket: ClientWebSocketResponse, messages: int) -> None:
    for number in range(messages):
        await socket.send_str(f"message {number}")
        if await socket.receive_str() != f"message {number}":
            raise RuntimeError("a message came back changed")
