"""Upgraded connections that do not keep their tenant awake (`idle_ignores_upgrades`).

Such a connection holds no lease of its own. Bytes from its client still pass only while the worker holds one
on the tenant: they renew it, and wait for one if there is none. When the tenant is about to stop or freeze,
the manager revokes, and the connection is closed: a WebSocket with 1001, "going away" (RFC 6455, 7.4.1).
"""

from collections import defaultdict
from typing import Final, Protocol

# FIN and opcode 8, two bytes of payload, 1001. It may end up inside a message that the app has begun: such a
# client sees a broken message rather than a reason, but it sees the end.
CLOSE_GOING_AWAY: Final = b"\x88\x02\x03\xe9"


class Tunnel(Protocol):
    """An upgraded connection."""

    def go_away(self) -> None:
        """Tell the client that this is the end, and end."""


class Tunnels:
    """The connections of this kind, by tenant."""

    def __init__(self) -> None:
        self._by_tenant: defaultdict[str, set[Tunnel]] = defaultdict(set)

    def add(self, tenant: str, tunnel: Tunnel) -> None:
        """A connection was upgraded."""
        self._by_tenant[tenant].add(tunnel)

    def remove(self, tenant: str, tunnel: Tunnel) -> None:
        """A connection has ended."""
        self._by_tenant[tenant].discard(tunnel)
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]

    def go_away(self, tenant: str) -> None:
        """End all connections to a tenant."""
        for tunnel in list(self._by_tenant.get(tenant, ())):
            tunnel.go_away()
