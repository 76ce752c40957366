"""The PROXY protocol, versions 1 and 2: what a load balancer says of a client before the client's own bytes.

A header is expected from those addresses that the operator names and from nobody else. Whether there is one
is never guessed: a client could write it itself, and so choose the address that it is known by. The protocol
is described in HAProxy's doc/proxy-protocol.txt; the numbers below are its sections.
"""

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final, NamedTuple

SIZE_MAX: Final = 4096
"""Bytes a header may have. Version 1 needs 107, version 2 some hundred with the extras of known senders."""

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED: Final = len(_SIGNATURE) + 4
_LINE_MAX: Final = 107
_LINE: Final = re.compile(
    rb"PROXY (?:UNKNOWN(?: [ -~]*)?"
    rb"|(TCP4|TCP6) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) ([0-9]{1,5}) ([0-9]{1,5}))\r\n"
)
_BEGINNING: Final = b"PROXY "
_PORT_MAX: Final = 65535

_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
# The other combinations of family and transport that exist: unspecified, UDP and unix sockets.
_WITHOUT_ADDRESS: Final = frozenset({0x00, 0x12, 0x22, 0x31, 0x32})
_ADDRESSES_BYTES: Final = {_TCP4: 12, _TCP6: 36, 0x12: 12, 0x22: 36, 0x31: 216, 0x32: 216}


class BadHeader(Exception):
    """Bytes that are no header; the message says why."""


class Header(NamedTuple):
    """A header. `client` is the client's address, "" if the sender speaks for itself or does not know it.

    `end` is the header's size: where the client's own bytes begin.
    """

    client: str
    end: int


def parse(data: bytes) -> Header | None:
    """The header that `data` begins with; None if it is not complete. Raises BadHeader."""
    if data.startswith(_SIGNATURE[: len(data)]):
        return _parse_binary(data)
    if data.startswith(_BEGINNING[: len(data)]):
        return _parse_line(data)
    raise BadHeader("it begins with no header of the PROXY protocol")


def _parse_line(data: bytes) -> Header | None:
    """Version 1: a line of text (2.1)."""
    end = data.find(b"\r\n", 0, _LINE_MAX) + 2
    if end < 2:
        if len(data) >= _LINE_MAX:
            raise BadHeader("the line is too long")
        return None
    match = _LINE.fullmatch(data, 0, end)
    if match is None:
        raise BadHeader("the line is malformed")
    family, *addresses, source_port, destination_port = match.groups()
    if family is None:
        return Header("", end)
    if max(int(source_port), int(destination_port)) > _PORT_MAX:
        raise BadHeader("a port is too large")
    kind = IPv4Address if family == b"TCP4" else IPv6Address
    try:
        client, _ = (kind(each.decode()) for each in addresses)
    except AddressValueError:
        raise BadHeader("an address is malformed") from None
    return Header(_shown(client), end)


def _parse_binary(data: bytes) -> Header | None:
    """Version 2: a fixed part, addresses, and extras that are passed over (2.2)."""
    if len(data) < _FIXED:
        return None
    command, family = data[12], data[13]
    size = int.from_bytes(data[14:_FIXED])
    if command not in (_LOCAL, _PROXY):
        raise BadHeader("the version or the command is unknown")
    end = _FIXED + size
    if end > SIZE_MAX:
        raise BadHeader("the header is too long")
    if command == _PROXY and family not in (_TCP4, _TCP6) and family not in _WITHOUT_ADDRESS:
        raise BadHeader("the address family is unknown")
    if command == _PROXY and size < _ADDRESSES_BYTES.get(family, 0):
        raise BadHeader("the header is too short for its addresses")
    if len(data) < end:
        return None
    if command == _PROXY and family == _TCP4:
        return Header(_shown(IPv4Address(data[_FIXED : _FIXED + 4])), end)
    if command == _PROXY and family == _TCP6:
        return Header(_shown(IPv6Address(data[_FIXED : _FIXED + 16])), end)
    # LOCAL is a health check of the sender, and what it says of addresses is to be ignored.
    return Header("", end)


def _shown(address: IPv4Address | IPv6Address) -> str:
    """An address as connections have it: IPv4 by itself, even where it came in an IPv6 one."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
