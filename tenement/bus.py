"""Connections to the system bus."""

import asyncio
import select
import socket
from collections.abc import Coroutine, Sequence
from typing import Any, Final, cast

from dbus_fast import BusType
from dbus_fast.aio import MessageBus

_FULL_FOR_S: Final = 5.0


async def unless_lost[T](lost: "asyncio.Future[None]", work: Coroutine[Any, Any, T]) -> T:
    """Do `work` as long as there is a connection; `lost` is done when that ends.

    A call that is made on a lost connection has no end: dbus-fast forgets it. Raises ConnectionError, once
    `work` is cancelled and has cleared away.
    """
    task = asyncio.ensure_future(work)
    try:
        either: set[asyncio.Future[Any]] = {task, lost}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ConnectionError("the bus closed the connection")
        return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class PatientSocket:
    """A socket for dbus-fast's writer, which takes a full send buffer for the end of the connection.

    dbus-fast 2.44 does not expect EAGAIN: hundreds of messages at once, and it hangs up. To be removed when
    it waits by itself.
    """

    def __init__(self, real: socket.socket) -> None:
        self._real = real

    def send(self, data: memoryview) -> int:
        """As socket.send, but 0 when nothing fits: the writer then waits until the socket is writable."""
        try:
            return self._real.send(data)
        except BlockingIOError:
            return 0

    def sendmsg(self, buffers: Sequence[memoryview], ancillary: Sequence[tuple[int, int, Any]]) -> int:
        """As socket.sendmsg. Raises TimeoutError if the bus reads nothing.

        Descriptors go with the first byte, so that one has to be sent here and now: this waits for room.
        """
        while True:
            try:
                return self._real.sendmsg(buffers, ancillary)
            except BlockingIOError:
                if not select.select([], [self._real], [], _FULL_FOR_S)[1]:
                    raise TimeoutError("the bus reads nothing") from None


def message_bus(address: str | None = None, *, descriptors: bool = False) -> MessageBus:
    """The system bus, or the one at `address`, not yet connected. `descriptors`: messages may carry some."""
    bus = MessageBus(address, BusType.SYSTEM, negotiate_unix_fd=descriptors)
    assert bus._sock is not None
    bus._writer.sock = cast(socket.socket, PatientSocket(bus._sock))
    return bus
