"""One lease, and what its requests need of it at once; how leases come and go is in `leases`."""

from typing import Protocol

from tenement.proxy.routes import Tenant


class Pool(Protocol):
    """The connections made under a lease."""

    def close(self) -> None:
        """Close the unused ones, and the others as they become unused."""

    def reopen(self) -> None:
        """Keep unused ones again."""

    def cut(self) -> None:
        """Close all of them now, whatever they carry."""


class Lease[P: Pool]:
    """Permission to send to one address. `active` counts requests and upgraded connections on it."""

    __slots__ = (
        "active",
        "address",
        "cut_at",
        "generation",
        "idle_since",
        "name",
        "pool",
        "retired",
        "tenant",
    )

    def __init__(
        self, tenant: Tenant | None, name: str, address: str, generation: int, pool: P, now: float
    ) -> None:
        self.tenant = tenant
        self.name = name
        self.address = address
        self.generation = generation
        self.pool = pool
        self.active = 0
        self.idle_since = now
        self.retired = False
        self.cut_at: float | None = None

    def leave(self, now: float) -> bool:
        """End one use. Whether it was the last one of a retired lease, which is then to be forgotten."""
        self.active -= 1
        if self.active:
            return False
        self.idle_since = now
        return self.retired
