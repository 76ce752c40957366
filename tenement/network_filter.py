"""Rules of the network that systemd's settings cannot express, as BPF programs for tenants.

`IPAddressAllow=` knows addresses only. Tenants must be able to answer the proxy, which connects from
127.0.77.1, and to ask the resolver at 127.0.0.53; with the addresses allowed they could also connect to every
service of the host that listens on all addresses, because all of 127.0.0.0/8 is the host. The program for
what leaves a tenant lets it send to the first only what belongs to connections that the proxy made, and to
the second only what goes to port 53.

A tenant that listens on all addresses would be reached from the internet, past the proxy. The program for
what comes to a tenant drops the beginning of every TCP connection that is not the proxy's.

They are attached to tenement.slice (`IPEgressFilterPath=`, `IPIngressFilterPath=`); what they let pass,
`IPAddressDeny=` still judges. Run by `python3 -m tenement.network_filter`, this loads them into the kernel
and keeps them in a bpf file system, where systemd finds them. See systemd.resource-control(5) and bpf(2).
"""

import ctypes
import os
import platform
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DIRECTORY: Final = "/run/tenement-bpf"
"""Where the bpf file system of tenement is mounted."""

EGRESS_PATH: Final = f"{DIRECTORY}/egress"
INGRESS_PATH: Final = f"{DIRECTORY}/ingress"
"""The programs, as systemd is told of them."""

# Architectures have their own numbers; those that came after 2008 share one.
_SYS_BPF: Final = {"x86_64": 321, "ppc64le": 361, "s390x": 351}.get(platform.machine(), 280)
_BPF_PROG_LOAD: Final = 5
_BPF_OBJ_PIN: Final = 6
_BPF_PROG_TYPE_CGROUP_SKB: Final = 8
_INGRESS, _EGRESS = 0, 1
_LOG_BYTES: Final = 65536

_TCP, _UDP = 6, 17
_SYN, _ACK = 0x02, 0x10
_DNS_PORT: Final = 53
_ETHERTYPE_IPV4: Final = 0x0800
_ETHERTYPE_IPV6: Final = 0x86DD
_ICMPV6: Final = 58
# Offsets in the headers of IPv4 (RFC 791), IPv6 (RFC 8200), TCP (RFC 9293) and UDP.
_IPV4_HEADER: Final = 20
_PROTOCOL_AT: Final = 9
_SOURCE_AT: Final = 12
_DESTINATION_AT: Final = 16
_IPV6_HEADER: Final = 40
_NEXT_HEADER_AT: Final = 6
_FLAGS_AT: Final = 13
_PORT_AT: Final = 2
# struct __sk_buff
_SKB_PROTOCOL_AT: Final = 16
_SKB_LOAD_BYTES: Final = 26

# Where the program keeps what it read, below its frame pointer.
_HEADER_SLOT: Final = -24
_FIELD_SLOT: Final = -32

# The instructions used, see "BPF Instruction Set Architecture" (RFC 9669); sizes are added to loads.
_LOAD, _WORD, _HALF, _BYTE = 0x61, 0x00, 0x08, 0x10
_MOVE, _MOVE_REGISTER, _ADD, _AND, _SHIFT_LEFT = 0xB7, 0xBF, 0x07, 0x57, 0x67
_JUMP, _JUMP_EQUAL, _JUMP_NOT_EQUAL, _CALL, _EXIT = 0x05, 0x15, 0x55, 0x85, 0x95
_RESULT, _ARGUMENT_1, _ARGUMENT_2, _ARGUMENT_3, _ARGUMENT_4 = range(5)
_PACKET, _VALUE, _FRAME = 6, 7, 10


@dataclass(frozen=True, slots=True)
class _Instruction:
    code: int
    target: int = 0
    source: int = 0
    offset: int = 0
    value: int = 0
    jump: str = ""


type _Line = _Instruction | str
"""An instruction, or the label of the one behind it."""


def egress(proxy: str, resolvers: tuple[str, ...]) -> bytes:
    """The program for what tenants send: 1 lets a packet pass, 0 drops it. The addresses are IPv4."""
    return _assemble(
        [
            *_begin(),
            _Instruction(_JUMP_NOT_EQUAL, _VALUE, value=_network_order(_ETHERTYPE_IPV4), jump="pass"),
            *_read(0, _HEADER_SLOT, _IPV4_HEADER),
            _Instruction(_LOAD + _WORD, _VALUE, _FRAME, _HEADER_SLOT + _DESTINATION_AT),
            _Instruction(_JUMP_EQUAL, _VALUE, value=_address(proxy), jump="to proxy"),
            *(
                _Instruction(_JUMP_EQUAL, _VALUE, value=_address(each), jump="to resolver")
                for each in resolvers
            ),
            _Instruction(_JUMP, jump="pass"),
            "to proxy",
            _Instruction(_LOAD + _BYTE, _VALUE, _FRAME, _HEADER_SLOT + _PROTOCOL_AT),
            _Instruction(_JUMP_NOT_EQUAL, _VALUE, value=_TCP, jump="drop"),
            *_read_behind_ipv4(_FLAGS_AT, 1),
            *_drop_beginning(),
            "to resolver",
            _Instruction(_LOAD + _BYTE, _VALUE, _FRAME, _HEADER_SLOT + _PROTOCOL_AT),
            _Instruction(_JUMP_EQUAL, _VALUE, value=_UDP, jump="with ports"),
            _Instruction(_JUMP_NOT_EQUAL, _VALUE, value=_TCP, jump="drop"),
            "with ports",
            *_read_behind_ipv4(_PORT_AT, 2),
            _Instruction(_LOAD + _HALF, _VALUE, _FRAME, _FIELD_SLOT),
            _Instruction(_JUMP_NOT_EQUAL, _VALUE, value=_network_order(_DNS_PORT), jump="drop"),
            *_end(),
        ]
    )


def ingress(proxy: str) -> bytes:
    """The program for what tenants receive, like `egress`.

    Of IPv6 only packets without extension headers pass: behind them the beginning of a connection could hide.
    """
    return _assemble(
        [
            *_begin(),
            _Instruction(_JUMP_EQUAL, _VALUE, value=_network_order(_ETHERTYPE_IPV6), jump="IPv6"),
            _Instruction(_JUMP_NOT_EQUAL, _VALUE, value=_network_order(_ETHERTYPE_IPV4), jump="pass"),
            *_read(0, _HEADER_SLOT, _IPV4_HEADER),
            _Instruction(_LOAD + _BYTE, _VALUE, _FRAME, _HEADER_SLOT + _PROTOCOL_AT),
            _Instruction(_JUMP_NOT_EQUAL, _VALUE, value=_TCP, jump="pass"),
            _Instruction(_LOAD + _WORD, _VALUE, _FRAME, _HEADER_SLOT + _SOURCE_AT),
            _Instruction(_JUMP_EQUAL, _VALUE, value=_address(proxy), jump="pass"),
            *_read_behind_ipv4(_FLAGS_AT, 1),
            *_drop_beginning(),
            "IPv6",
            *_read(_NEXT_HEADER_AT, _FIELD_SLOT, 1),
            _Instruction(_LOAD + _BYTE, _VALUE, _FRAME, _FIELD_SLOT),
            _Instruction(_JUMP_EQUAL, _VALUE, value=_UDP, jump="pass"),
            _Instruction(_JUMP_EQUAL, _VALUE, value=_ICMPV6, jump="pass"),
            _Instruction(_JUMP_NOT_EQUAL, _VALUE, value=_TCP, jump="drop"),
            *_read(_IPV6_HEADER + _FLAGS_AT, _FIELD_SLOT, 1),
            *_drop_beginning(),
            *_end(),
        ]
    )


def _begin() -> list[_Line]:
    """Keep the packet, and have the kind of its network header at hand."""
    return [
        _Instruction(_MOVE_REGISTER, _PACKET, _ARGUMENT_1),
        _Instruction(_LOAD + _WORD, _VALUE, _ARGUMENT_1, _SKB_PROTOCOL_AT),
    ]


def _drop_beginning() -> list[_Line]:
    """By the flags of TCP that were read: drop what begins a connection, and pass all else.

    A connection begins with SYN alone, also one that both ends begin at once (RFC 9293, 3.5).
    """
    return [
        _Instruction(_LOAD + _BYTE, _VALUE, _FRAME, _FIELD_SLOT),
        _Instruction(_AND, _VALUE, value=_SYN | _ACK),
        _Instruction(_JUMP_EQUAL, _VALUE, value=_SYN, jump="drop"),
        _Instruction(_JUMP, jump="pass"),
    ]


def _end() -> list[_Line]:
    return [
        "pass",
        _Instruction(_MOVE, _RESULT, value=1),
        _Instruction(_EXIT),
        "drop",
        _Instruction(_MOVE, _RESULT, value=0),
        _Instruction(_EXIT),
    ]


def _read(at: int, slot: int, size: int) -> list[_Line]:
    """Copy bytes of the packet to a slot of the frame; a packet without them is dropped."""
    return [_Instruction(_MOVE, _ARGUMENT_2, value=at), *_read_from_argument(slot, size)]


def _read_behind_ipv4(at: int, size: int) -> list[_Line]:
    """Copy bytes of the header behind that of IPv4, whose length is in its first byte, in words."""
    return [
        _Instruction(_LOAD + _BYTE, _ARGUMENT_2, _FRAME, _HEADER_SLOT),
        _Instruction(_AND, _ARGUMENT_2, value=0x0F),
        _Instruction(_SHIFT_LEFT, _ARGUMENT_2, value=2),
        _Instruction(_ADD, _ARGUMENT_2, value=at),
        *_read_from_argument(_FIELD_SLOT, size),
    ]


def _read_from_argument(slot: int, size: int) -> list[_Line]:
    return [
        _Instruction(_MOVE_REGISTER, _ARGUMENT_1, _PACKET),
        _Instruction(_MOVE_REGISTER, _ARGUMENT_3, _FRAME),
        _Instruction(_ADD, _ARGUMENT_3, value=slot),
        _Instruction(_MOVE, _ARGUMENT_4, value=size),
        _Instruction(_CALL, value=_SKB_LOAD_BYTES),
        _Instruction(_JUMP_NOT_EQUAL, _RESULT, value=0, jump="drop"),
    ]


def _assemble(lines: list[_Line]) -> bytes:
    labels: dict[str, int] = {}
    instructions: list[_Instruction] = []
    for line in lines:
        if isinstance(line, str):
            labels[line] = len(instructions)
        else:
            instructions.append(line)
    found = b""
    for at, each in enumerate(instructions):
        offset = labels[each.jump] - at - 1 if each.jump else each.offset
        low, high = (each.target, each.source) if sys.byteorder == "little" else (each.source, each.target)
        found += struct.pack("=BBhi", each.code, high << 4 | low, offset, each.value)
    return found


def _address(text: str) -> int:
    """An address as a word read from a packet."""
    return int.from_bytes(bytes(int(part) for part in text.split(".")), sys.byteorder)


def _network_order(value: int) -> int:
    """A 16-bit value as it is read from a packet."""
    return int.from_bytes(value.to_bytes(2, "big"), sys.byteorder)


# The kernel


def load(instructions: bytes, direction: int) -> int:
    """Load a program; gives a file descriptor of it. Raises OSError, with the verifier's complaint."""
    code, text = ctypes.create_string_buffer(instructions), ctypes.create_string_buffer(b"Dual MIT/GPL")
    log = ctypes.create_string_buffer(_LOG_BYTES)
    # union bpf_attr, as far as BPF_PROG_LOAD needs it.
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        _BPF_PROG_TYPE_CGROUP_SKB, len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(text),
        1, _LOG_BYTES, ctypes.addressof(log), 0, 0, b"tenement", 0, direction,
    )  # fmt: skip
    try:
        return _bpf(_BPF_PROG_LOAD, attributes)
    except OSError as error:
        said = log.value.decode(errors="replace").strip().splitlines()
        raise OSError(error.errno, "; ".join([error.strerror or "", *said[-2:]])) from None


def pin(fd: int, path: str) -> None:
    """Give a loaded program a name in a bpf file system. Raises OSError."""
    name = ctypes.create_string_buffer(path.encode())
    _bpf(_BPF_OBJ_PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0))


def _bpf(command: int, attributes: bytes) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = int(
        libc.syscall(ctypes.c_long(_SYS_BPF), command, ctypes.byref(buffer), ctypes.c_uint(len(attributes)))
    )
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def main() -> int:
    """Load the programs and keep them, in place of those that are there."""
    # Not at the top: the properties of units come with half of the package.
    from tenement.unit_properties import PROXY_SOURCE, RESOLVERS

    programs = {
        EGRESS_PATH: (egress(PROXY_SOURCE, RESOLVERS), _EGRESS),
        INGRESS_PATH: (ingress(PROXY_SOURCE), _INGRESS),
    }
    try:
        for path, (instructions, direction) in programs.items():
            fd = load(instructions, direction)
            Path(path).unlink(missing_ok=True)
            pin(fd, path)
    except OSError as error:
        print(
            f"the filters for tenants' packets were not loaded ({error.strerror}): tenants reach services of "
            "this host that listen on all addresses. See 'ten doctor'.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
