"""Who listens on a TCP port, asked of the kernel through sock_diag(7).

/proc/net/tcp tells the same but lists every connection of the host; this asks for one port's listeners only.
"""

import ipaddress
import socket
import struct
from typing import Final, NamedTuple

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST_DUMP: Final = 0x301
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_TCP_LISTEN_MASK: Final = 1 << 10

_NLMSGHDR: Final = struct.Struct("=IHHII")
# struct inet_diag_req_v2 with its inet_diag_sockid: only family, protocol, states and the source port are
# filled in.
_REQUEST: Final = struct.Struct("=BBBBI2s46s")
# struct inet_diag_msg: family, three bytes, source port, destination port, source address, ..., uid, inode.
_REPLY: Final = struct.Struct("=B3x2s2x16s16x12x12xII")


class Listener(NamedTuple):
    """A listening TCP socket: the address it is bound to, and the user who made it."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    uid: int

    @property
    def everywhere(self) -> bool:
        """Whether it listens on every address of the host."""
        return self.address.is_unspecified


def request(family: int, port: int) -> bytes:
    """The netlink message that asks for the listeners of `port` in one address family."""
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _TCP_LISTEN_MASK, struct.pack("!H", port), b"")
    header = _NLMSGHDR.pack(_NLMSGHDR.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
    return header + body


def parse(data: bytes) -> tuple[list[Listener], bool]:
    """The listeners in one datagram of the kernel's answer, and whether the answer ends with it."""
    found: list[Listener] = []
    at = 0
    while at + _NLMSGHDR.size <= len(data):
        length, kind, _, _, _ = _NLMSGHDR.unpack_from(data, at)
        if kind in (_NLMSG_DONE, _NLMSG_ERROR) or length < _NLMSGHDR.size:
            return found, True
        family, _port, source, uid, _inode = _REPLY.unpack_from(data, at + _NLMSGHDR.size)
        packed = source[:4] if family == socket.AF_INET else source
        found.append(Listener(ipaddress.ip_address(packed), uid))
        at += (length + 3) & ~3
    return found, False


def listeners(port: int) -> list[Listener]:
    """Every listener on a TCP port of this network namespace, of both address families. Raises OSError."""
    found: list[Listener] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _NETLINK_SOCK_DIAG) as kernel:
        for family in (socket.AF_INET, socket.AF_INET6):
            kernel.send(request(family, port))
            done = False
            while not done:
                some, done = parse(kernel.recv(65536))
                found.extend(some)
    return found


def is_held(port: int) -> bool:
    """Whether somebody has a TCP port of the loopback, so that an app could not listen on it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As apps do: connections of a former tenant that are winding down do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
