"""The manager as the HTTP API has it: each call carries the token of whoever is acted for."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from tenement.bus import message_bus
from tenement.client import BUS_NAME, INTERFACE, OBJECT_PATH, check_sendable, error_from_bus
from tenement.errors import Internal, Unreachable
from tenement.systemd import Systemd, SystemdError

_ANSWER_TIMEOUT_S: Final = 30.0
_SLICE: Final = "org.freedesktop.systemd1.Slice"
_LINE_BYTES_MAX: Final = 1024 * 1024


class Manager:
    """A connection to the system bus, made when it is needed and again when it is lost."""

    def __init__(self) -> None:
        self._bus: MessageBus | None = None
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        """Disconnect."""
        if self._bus is not None and self._bus.connected:
            self._bus.disconnect()

    async def verify(self, token: str) -> dict[str, Any]:
        """What the token is. Raises Unauthorized."""
        return dict(json.loads(await self._call("VerifyToken", "s", token)))

    async def act(
        self,
        token: str,
        peer: str,
        member: str,
        *arguments: Variant,
        timeout_s: float = _ANSWER_TIMEOUT_S,
        plain: bool = False,
    ) -> Any:
        """Call `member` for the holder of the token; its result, from JSON unless `plain`, or None."""
        results = await self._call("Act", "sssav", token, peer, member, list(arguments), timeout_s=timeout_s)
        if not results:
            return None
        return results[0].value if plain else json.loads(results[0].value)

    async def open_session(self, token: str, peer: str) -> str:
        """The text of a new session."""
        return str(await self._call("OpenSession", "ss", token, peer))

    async def close_session(self, token: str) -> None:
        """End a session."""
        await self._call("CloseSession", "s", token)

    async def settings(self) -> dict[str, Any]:
        """What the configuration says of the API."""
        return dict(json.loads(await self._call("WebSettings", "")))

    async def measure(self) -> dict[str, Any]:
        """The manager's numbers."""
        return dict(json.loads(await self._call("Measure", "")))

    async def slice_properties(self, slice_: str) -> dict[str, Any]:
        """What systemd says of a slice; nothing if it is not there. Everybody may ask this."""
        try:
            return await Systemd(await self._connected()).get_all(slice_, _SLICE)
        except SystemdError:
            return {}

    @asynccontextmanager
    async def logs(
        self,
        token: str,
        service: str,
        id_: str,
        *,
        lines: int,
        since_s: float = 0.0,
        level: str = "",
        cursor: str = "",
        follow: bool = False,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Journal entries as lines of JSON, newest first, or with `follow` as they come."""
        fd = await self._call(
            "OpenLogs", "sssudssb", token, service, id_, lines, since_s, level, cursor, follow
        )
        async with _lines(fd) as stream:
            yield stream

    @asynccontextmanager
    async def events(self, token: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Changes of tenants as lines of JSON, as they come."""
        async with _lines(await self._call("OpenEvents", "s", token)) as stream:
            yield stream

    async def _call(
        self, member: str, signature: str, *arguments: object, timeout_s: float = _ANSWER_TIMEOUT_S
    ) -> Any:
        """Call a method; its only result, a file descriptor as such."""
        for each in arguments:
            check_sendable([part.value for part in each] if isinstance(each, list) else [each])
        bus = await self._connected()
        message = Message(
            destination=BUS_NAME,
            path=OBJECT_PATH,
            interface=INTERFACE,
            member=member,
            signature=signature,
            body=list(arguments),
        )
        try:
            async with asyncio.timeout(timeout_s):
                reply = await bus.call(message)
        except (OSError, EOFError) as error:
            raise Unreachable("tenement's manager does not answer") from error
        if reply is None:
            raise Unreachable("The connection to the system bus was lost")
        if reply.message_type is MessageType.ERROR:
            raise error_from_bus(reply.error_name or "", str(reply.body[0]) if reply.body else "")
        if reply.signature == "h":
            return reply.unix_fds[reply.body[0]]
        return reply.body[0] if reply.body else None

    async def _connected(self) -> MessageBus:
        async with self._connecting:
            if self._bus is None or not self._bus.connected:
                try:
                    async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                        self._bus = await message_bus(descriptors=True).connect()
                except (OSError, EOFError) as error:
                    raise Unreachable("The system bus (dbus.service) does not answer") from error
            return self._bus


@asynccontextmanager
async def _lines(fd: int) -> AsyncIterator[AsyncIterator[bytes]]:
    """The lines of a pipe, which is closed at the end; a line that is too long is left out."""
    if not isinstance(fd, int):
        raise Internal("the manager answered with no file descriptor")
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LINE_BYTES_MAX)
    os.set_blocking(fd, False)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", buffering=0)
    )

    async def stream() -> AsyncIterator[bytes]:
        while True:
            try:
                line = await reader.readline()
            except ValueError:
                continue
            if not line:
                return
            if line != b"\n":
                yield line

    try:
        yield stream()
    finally:
        transport.close()
