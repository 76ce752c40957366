"""The socket under dbus-fast's writer, when the bus reads slower than we write."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenement.bus import PatientSocket, message_bus


@pytest.fixture
def full() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A pair of sockets, the first of which takes nothing until the second is read."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(bytes(65536))
        yield ours, theirs


def test_a_full_buffer_sends_nothing_and_does_not_raise(full: tuple[socket.socket, socket.socket]) -> None:
    assert PatientSocket(full[0]).send(memoryview(b"later")) == 0


def test_a_descriptor_is_sent_when_there_is_room_again(full: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = full
    passed: list[int] = []

    def read() -> None:
        while not passed:
            data, fds, _, _ = socket.recv_fds(theirs, 1 << 20, 4)
            assert data
            passed.extend(fds)

    reader = threading.Thread(target=read)
    reader.start()
    with open(os.devnull, "rb") as file:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, file.fileno().to_bytes(4, "little"))
        assert PatientSocket(ours).sendmsg([memoryview(b"x")], [rights]) == 1
        reader.join(10)
    assert len(passed) == 1
    os.close(passed[0])


def test_the_writer_of_a_connection_is_patient(tmp_path: Path) -> None:
    async def story() -> None:
        bus = message_bus(f"unix:path={tmp_path}/bus")
        assert isinstance(bus._writer.sock, PatientSocket)
        bus.disconnect()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/bus")
        listener.listen()
        asyncio.run(story())
