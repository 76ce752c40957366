"""Server-sent events: an answer that goes on, with a sign of life now and then.

Each sign of life also asks the manager whether the token is still good, so that a stream does not outlive a
token that was revoked.
"""

import asyncio
import json
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from tenement.api.operation import Call
from tenement.errors import TenementError

_BEAT_S: Final = 15.0
_SEND_TIMEOUT_S: Final = 30.0
# The answer has begun, so that no error can be told any more: it ends, and the client may try again.
_ORDINARY: Final = (ConnectionError, TimeoutError, TenementError)


class EventStream:
    """One stream; use it as an asynchronous context manager. Leaving it early ends the work inside."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._beats: asyncio.Task[None] | None = None
        self._owner: asyncio.Task[object] | None = None
        self._ended = False
        self.response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        )

    async def __aenter__(self) -> Self:
        """Begin the answer."""
        await self.response.prepare(self._call.request)
        await self.response.write(b"retry: 2000\n\n")
        self._owner = asyncio.current_task()
        self._beats = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """End it. What ends it (a client that is gone, a token that is no longer good, a manager
        that restarts) is no error.
        """
        if self._beats is not None:
            self._beats.cancel()
            await asyncio.gather(self._beats, return_exceptions=True)
        if isinstance(error, asyncio.CancelledError) and self._ended and self._owner is not None:
            self._owner.uncancel()
            return True
        if isinstance(error, BaseExceptionGroup):
            return error.split(_ORDINARY)[1] is None
        return isinstance(error, _ORDINARY)

    async def send(self, event: str, document: object) -> None:
        """Send an event with a document of JSON. Raises ConnectionError, TimeoutError."""
        # JSON has no line ends of its own: one `data` line is enough.
        text = json.dumps(document, separators=(",", ":"))
        async with asyncio.timeout(_SEND_TIMEOUT_S):
            await self.response.write(f"event: {event}\ndata: {text}\n\n".encode())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(_BEAT_S)
            try:
                await self._call.context.manager.verify(self._call.token)
                async with asyncio.timeout(_SEND_TIMEOUT_S):
                    await self.response.write(b": still here\n\n")
            except (TenementError, ConnectionError, TimeoutError):
                self._ended = True
                if self._owner is not None:
                    self._owner.cancel()
                return
