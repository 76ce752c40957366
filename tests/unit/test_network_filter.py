"""The BPF programs, run by an interpreter of the few instructions it uses, on packets made here."""

import socket
import struct
import sys

import pytest

from tenement.network_filter import egress, ingress

PROXY, STUBS = "127.0.77.1", ("127.0.0.53", "127.0.0.54")
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
IPV4, IPV6 = 0x0800, 0x86DD
TCP, UDP, SCTP = 6, 17, 132


def packet(
    to: str, protocol: int, port: int = 80, flags: int = 0, options: bytes = b"", source: str = "127.0.0.1"
) -> bytes:
    """What the program reads of a packet: the header of IPv4, with options, and that of TCP or UDP."""
    words = 5 + len(options) // 4
    addresses = socket.inet_aton(source) + socket.inet_aton(to)
    ipv4 = struct.pack("!BBHIBBH", 0x40 | words, 0, 0, 0, 64, protocol, 0) + addresses
    return ipv4 + options + struct.pack("!HHIIBB", 40000, port, 0, 0, 0x50, flags) + bytes(6)


def packet6(protocol: int, flags: int = 0) -> bytes:
    return struct.pack("!IHBB32s", 6 << 28, 20, protocol, 64, b"") + struct.pack(
        "!HHIIBB6x", 1, 2, 0, 0, 80, flags
    )


def passes(data: bytes, ethertype: int = IPV4) -> bool:
    """Whether a tenant may send it."""
    return run(egress(PROXY, STUBS), data, ethertype)


def arrives(data: bytes, ethertype: int = IPV4) -> bool:
    """Whether a tenant receives it."""
    return run(ingress(PROXY), data, ethertype)


def run(code: bytes, data: bytes, ethertype: int) -> bool:
    """Run a program on one packet."""
    registers, frame = [0] * 11, bytearray(64)
    registers[10] = len(frame)
    at = 0
    for _ in range(100):
        op, both, offset, value = struct.unpack_from("=BBhi", code, 8 * at)
        target, source = (both & 15, both >> 4) if sys.byteorder == "little" else (both >> 4, both & 15)
        at += 1
        match op:
            case 0x61 if source == 1:
                assert offset == 16
                registers[target] = socket.htons(ethertype)
            case 0x61 | 0x69 | 0x71:
                size = {0x61: 4, 0x69: 2, 0x71: 1}[op]
                start = registers[source] + offset
                registers[target] = int.from_bytes(frame[start : start + size], sys.byteorder)
            case 0xB7:
                registers[target] = value
            case 0xBF:
                registers[target] = registers[source]
            case 0x07:
                registers[target] += value
            case 0x57:
                registers[target] &= value
            case 0x67:
                registers[target] <<= value
            case 0x05:
                at += offset
            case 0x15 | 0x55:
                if (registers[target] == value) == (op == 0x15):
                    at += offset
            case 0x85:
                assert value == 26
                _, where, slot, size = registers[1:5]
                found = data[where : where + size]
                registers[0] = 0 if len(found) == size else -14
                if len(found) == size:
                    frame[slot : slot + size] = found
            case 0x95:
                return bool(registers[0])
            case _:
                pytest.fail(f"unknown instruction {op:#x}")
    pytest.fail("endless")


@pytest.mark.parametrize("flags", [SYN | ACK, ACK, ACK | FIN, RST, RST | ACK])
def test_tenants_answer_the_proxy(flags: int) -> None:
    assert passes(packet(PROXY, TCP, 45000, flags))
    assert passes(packet(PROXY, TCP, 45000, flags, options=bytes(40)))


@pytest.mark.parametrize("port", [22, 53, 80, 20001, 45000])
@pytest.mark.parametrize("options", [b"", bytes(4), bytes(40)])
def test_tenants_begin_nothing_towards_the_proxys_address(port: int, options: bytes) -> None:
    assert not passes(packet(PROXY, TCP, port, SYN, options))
    assert not passes(packet(PROXY, TCP, port, SYN | FIN, options))
    assert not passes(packet(PROXY, UDP, port, options=options))
    assert not passes(packet(PROXY, SCTP, port, options=options))


@pytest.mark.parametrize("stub", STUBS)
def test_of_the_resolvers_addresses_only_the_name_service_is_reached(stub: str) -> None:
    assert passes(packet(stub, UDP, 53))
    assert passes(packet(stub, TCP, 53, SYN))
    assert not passes(packet(stub, TCP, 80, SYN))
    assert not passes(packet(stub, UDP, 5353))
    assert not passes(packet(stub, SCTP, 53))


def test_all_else_is_left_to_the_lists_of_addresses() -> None:
    assert passes(packet("127.0.0.1", TCP, 80, SYN))
    assert passes(packet("192.0.2.1", TCP, 443, SYN))
    assert passes(bytes(40), IPV6)


def test_packets_too_short_to_judge_are_dropped() -> None:
    assert not passes(packet(PROXY, TCP)[:19])
    assert not passes(packet(PROXY, TCP, flags=ACK)[:33])
    assert not passes(packet(STUBS[0], UDP, 53)[:22])


def test_only_the_proxy_begins_connections_to_tenants() -> None:
    assert arrives(packet("127.0.0.1", TCP, 20001, SYN, source=PROXY))
    assert not arrives(packet("192.0.2.1", TCP, 20001, SYN, source="198.51.100.7"))
    assert not arrives(packet("192.0.2.1", TCP, 20001, SYN, bytes(40), source="198.51.100.7"))
    assert not arrives(packet("127.0.0.1", TCP, 20001, SYN))
    assert not arrives(packet6(TCP, SYN), IPV6)


@pytest.mark.parametrize("flags", [SYN | ACK, ACK, ACK | FIN, RST, RST | ACK])
def test_answers_to_tenants_arrive(flags: int) -> None:
    assert arrives(packet("192.0.2.1", TCP, 40000, flags, source="198.51.100.7"))
    assert arrives(packet6(TCP, flags), IPV6)
    assert arrives(packet("192.0.2.1", UDP, 40000, source="198.51.100.7"))
    assert arrives(packet6(UDP), IPV6)
    assert arrives(packet6(58), IPV6)


@pytest.mark.parametrize("header", [0, 43, 44, 60, 135])
def test_nothing_hides_behind_extension_headers(header: int) -> None:
    assert not arrives(packet6(header), IPV6)
