"""The host's own addresses, from rtnetlink(7), and word of their changes."""

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Callable
from typing import Final

_RTM_GETADDR: Final = 22
_RTM_NEWADDR: Final = 20
_NLM_F_REQUEST_DUMP: Final = 0x301
_NLMSG_DONE: Final = 3
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
# RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR
_ADDRESS_GROUPS: Final = 0x10 | 0x100

_NLMSGHDR: Final = struct.Struct("=IHHII")
_IFADDRMSG: Final = struct.Struct("=BBBBI")
_RTATTR: Final = struct.Struct("=HH")


def parse(data: bytes) -> tuple[list[str], bool]:
    """The addresses in one datagram of the kernel's answer, and whether the answer ends with it."""
    found: list[str] = []
    at = 0
    while at + _NLMSGHDR.size <= len(data):
        length, kind, _, _, _ = _NLMSGHDR.unpack_from(data, at)
        if kind != _RTM_NEWADDR or length < _NLMSGHDR.size:
            return found, True
        attributes: dict[int, bytes] = {}
        offset = at + _NLMSGHDR.size + _IFADDRMSG.size
        while offset + _RTATTR.size <= at + length:
            size, name = _RTATTR.unpack_from(data, offset)
            if size < _RTATTR.size:
                break
            attributes[name] = data[offset + _RTATTR.size : offset + size]
            offset += (size + 3) & ~3
        # On point-to-point links IFA_ADDRESS is the other end.
        packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
        if packed:
            found.append(str(ipaddress.ip_address(packed)))
        at += (length + 3) & ~3
    return found, False


def own_addresses() -> list[str]:
    """Every address of the host but those of the loopback. Raises OSError."""
    found: list[str] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE) as kernel:
        body = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        kernel.send(
            _NLMSGHDR.pack(_NLMSGHDR.size + len(body), _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + body
        )
        done = False
        while not done:
            some, done = parse(kernel.recv(65536))
            found.extend(some)
    return sorted({address for address in found if not ipaddress.ip_address(address).is_loopback})


class AddressWatch:
    """Calls `on_change` when an address of the host comes or goes."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, _ADDRESS_GROUPS))
        asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def close(self) -> None:
        """Stop watching."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _readable(self) -> None:
        try:
            while self._socket.recv(65536):
                pass
        except BlockingIOError:
            pass
        except OSError:
            # ENOBUFS: more changes than the kernel kept for us. All that matters is that there were some.
            pass
        self._on_change()
