"""Finds out when an app can serve: it accepts a connection, then answers 2xx on its health path if it has
one.

The app is a hostile neighbour and this runs as root: of an answer the status line is read, at most 256 bytes
of it, and nothing else.
"""

import asyncio
import re
import socket
from dataclasses import dataclass
from typing import Final

from tenement.unit_properties import PROXY_SOURCE

# An app is noticed on average after half a pause, and a pause is a tenth of the time waited so far: the wait
# is 5 % longer than it must be, and a slow start costs some dozens of attempts.
FIRST_PAUSE_S: Final = 0.001
LONGEST_PAUSE_S: Final = 0.05
PAUSE_GROWTH: Final = 1.1
_STATUS_LINE_MAX: Final = 256
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)[ \r\n]")
# Since Linux 4.2: the source port is chosen at connect, so one source address serves any number of
# connections.
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_ONE_CHECK_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Probe:
    """Where to ask, and what: `health` is a path, or None if accepting a connection is enough.

    `host` is the tenant's public name: apps that answer only to it, or that redirect plain HTTP, see what a
    visitor through the proxy would send.
    """

    address: str
    health: str | None
    host: str

    def request(self) -> bytes:
        """The health request."""
        return (
            f"GET {self.health} HTTP/1.1\r\nHost: {self.host}\r\n"
            f"X-Forwarded-Proto: https\r\nX-Forwarded-Host: {self.host}\r\n"
            "User-Agent: tenement\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        ).encode()


class NotReady(Exception):
    """The app does not serve; the message says why, for people."""


def parse_status(data: bytes) -> int | None:
    """The status that an answer begins with; None if more bytes are needed. Raises NotReady."""
    match = _STATUS_LINE.match(data)
    if match:
        return int(match[1])
    if len(data) >= _STATUS_LINE_MAX or b"\n" in data:
        raise NotReady("the health check got something that is not HTTP")
    return None


async def check(probe: Probe) -> None:
    """Ask once. Raises NotReady with the reason, OSError if nothing accepts."""
    with await _connect(probe.address) as connection:
        if probe.health is None:
            return
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, probe.request())
        data = b""
        while (status := parse_status(data)) is None:
            more = await loop.sock_recv(connection, _STATUS_LINE_MAX)
            if not more:
                raise NotReady(f"{probe.health} closed the connection without an answer")
            data += more
    if not 200 <= status <= 299:
        raise NotReady(f"{probe.health} answered {status}")


async def wait_until_ready(probe: Probe, timeout_s: float) -> None:
    """Ask at once, then after small growing pauses, until the app is ready.

    Raises NotReady with the last reason seen after `timeout_s` seconds.
    """
    wait = _Wait(probe)
    try:
        async with asyncio.timeout(timeout_s):
            await wait.run()
    except TimeoutError as error:
        raise NotReady(f"not ready within {timeout_s:g} s: {wait.reason}") from error


class _Wait:
    """One wait, which remembers why the app was not ready the last time it was asked."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self.reason = "nothing accepts connections"

    async def run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with asyncio.timeout(_ONE_CHECK_S):
                    return await check(self._probe)
            except NotReady as error:
                self.reason = str(error)
            except TimeoutError:
                self.reason = f"no answer within {_ONE_CHECK_S:g} s"
            except OSError as error:
                self.reason = (
                    f"nothing accepts connections on {self._probe.address} ({error.strerror or error})"
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * PAUSE_GROWTH, LONGEST_PAUSE_S)


async def _connect(address: str) -> socket.socket:
    """A connection to the app. Raises OSError."""
    loop = asyncio.get_running_loop()
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        target: str | tuple[str, int] = address.removeprefix("unix:")
    else:
        host, _, port = address.rpartition(":")
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        connection.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        connection.bind((PROXY_SOURCE, 0))
        target = (host, int(port))
    try:
        await loop.sock_connect(connection, target)
    except BaseException:
        connection.close()
        raise
    return connection
