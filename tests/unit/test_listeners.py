"""Who listens on a port: the kernel's answer for sockets of this process, and its messages taken apart."""

import os
import socket
import struct

import pytest

from tenement.manager.listeners import Listener, listeners, parse


@pytest.mark.parametrize(
    ("family", "address", "everywhere"),
    [
        (socket.AF_INET, "127.0.0.1", False),
        (socket.AF_INET, "0.0.0.0", True),
        (socket.AF_INET6, "::", True),
    ],
)
def test_a_listener_is_found_with_its_address_and_owner(
    family: socket.AddressFamily, address: str, everywhere: bool
):
    with socket.socket(family) as listener:
        try:
            listener.bind((address, 0))
        except OSError:
            pytest.skip(f"no {address} here")
        listener.listen()
        (found,) = listeners(listener.getsockname()[1])
    assert str(found.address) == address
    assert found.uid == os.getuid()
    assert found.everywhere is everywhere


def test_a_socket_that_does_not_listen_is_not_found():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert listeners(bound.getsockname()[1]) == []


def test_connections_of_the_same_port_are_not_listeners():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            assert len(listeners(port)) == 1


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body


def inet(address: str, uid: int) -> bytes:
    packed = socket.inet_aton(address) + bytes(12)
    head = struct.pack("=B3x2s2x16s16x12x12xII", socket.AF_INET, b"\x4e\x21", packed, uid, 4711)
    return message(20, head)


def test_one_datagram_may_hold_several_listeners_and_the_end():
    data = inet("127.0.0.1", 61001) + inet("0.0.0.0", 0) + message(3, bytes(4))
    found, ends = parse(data)
    assert [listener.uid for listener in found] == [61001, 0]
    assert [listener.everywhere for listener in found] == [False, True]
    assert ends


def test_an_error_ends_the_answer():
    assert parse(message(2, bytes(4))) == ([], True)


def test_a_datagram_without_an_end_is_followed_by_another():
    found, ends = parse(inet("127.0.0.1", 5))
    assert isinstance(found[0], Listener)
    assert not ends


@pytest.mark.parametrize("data", [b"", bytes(15)])
def test_an_empty_datagram_has_no_listeners(data: bytes):
    assert parse(data) == ([], False)
