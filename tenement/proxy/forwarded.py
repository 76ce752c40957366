"""The fields that tell an app where a request came from: X-Forwarded-For, -Proto, -Host, X-Real-IP and
Forwarded.

From an untrusted peer nothing of that kind is believed: it gets the peer's own address. From a trusted proxy
the chain is kept and the peer appended to it; then the client is the first address from the right that is not
a trusted proxy (anything further left may have been written by anybody). Forwarded is RFC 7239's.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

_CACHE_SIZE: Final = 4096
_PASSED_ON: Final = frozenset(
    {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip", b"forwarded"}
)


class TrustedProxies:
    """The networks whose word about the origin of a request, or of a connection, is believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: list[IPv4Network | IPv6Network] = []
        for each in networks:
            try:
                self._networks.append(ip_network(each, strict=False))
            except ValueError:
                continue  # The manager has checked them; one it let through trusts nobody.
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._networks)

    def __contains__(self, address: str) -> bool:
        """Whether the address is one of a trusted proxy; anything that is no address is not."""
        if not self._networks:
            return False
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= _CACHE_SIZE:
                self._known.clear()
            known = self._known[address] = self._look_up(address)
        return known

    def _look_up(self, text: str) -> bool:
        try:
            address = ip_address(text)
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def fields(peer: str, scheme: bytes, host: bytes) -> bytes:
    """The field lines for a request of an untrusted peer, each with a line end in front."""
    address = peer.encode()
    return b"\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b%b%b" % (
        address,
        scheme,
        host,
        b"\r\nX-Real-IP: %b" % address,
        b"\r\nForwarded: %b" % _element(peer, scheme, host),
    )


def fields_from_proxy(
    peer: str, scheme: bytes, host: bytes, origin: list[tuple[bytes, bytes]], trusted: TrustedProxies
) -> bytes:
    """The field lines for a request of a trusted proxy, with what it said about the origin (lower-case
    names).
    """
    said: dict[bytes, list[bytes]] = {}
    for name, value in origin:
        said.setdefault(name, []).append(value)
    chain = [
        each.strip()
        for value in said.get(b"x-forwarded-for", [])
        for each in value.split(b",")
        if each.strip()
    ]
    chain.append(peer.encode())
    elements = [*said.get(b"forwarded", []), _element(peer, scheme, host)]
    lines = [
        b"\r\nX-Forwarded-For: %b" % b", ".join(chain),
        b"\r\nX-Forwarded-Proto: %b" % _last(said, b"x-forwarded-proto", scheme),
        b"\r\nX-Forwarded-Host: %b" % _last(said, b"x-forwarded-host", host),
        b"\r\nX-Real-IP: %b" % client(chain, trusted).encode("latin-1"),
        b"\r\nForwarded: %b" % b", ".join(elements),
    ]
    lines += [b"\r\n%b: %b" % (name.title(), value) for name, value in origin if name not in _PASSED_ON]
    return b"".join(lines)


def client(chain: list[bytes], trusted: TrustedProxies) -> str:
    """The client's address: the first from the right that is not a trusted proxy's, or the leftmost if all
    are.
    """
    address = chain[-1].decode("latin-1")
    for each in reversed(chain):
        address = _bare(each.decode("latin-1"))
        if address not in trusted:
            break
    return address


def _last(said: dict[bytes, list[bytes]], name: bytes, own: bytes) -> bytes:
    """What the trusted proxy said last, or what is seen from here."""
    values = said.get(name)
    return values[-1].rpartition(b",")[2].strip() if values else own


def _bare(address: str) -> str:
    """An address without the port and brackets that some proxies add."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    name, colon, port = address.rpartition(":")
    return name if colon and port.isdigit() and ":" not in name else address


def _element(peer: str, scheme: bytes, host: bytes) -> bytes:
    """One element of Forwarded; a colon or bracket makes a value a quoted string (RFC 7239, 4 and 6)."""
    node = f'"[{peer}]"' if ":" in peer else peer
    quoted = b'"%b"' % host if b":" in host else host
    return b"for=%b;host=%b;proto=%b" % (node.encode(), quoted, scheme)
