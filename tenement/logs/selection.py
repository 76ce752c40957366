"""Whose lines are wanted: tenants, services or all of them, and the units that stand for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tenement.names import TenantName, check_service


@dataclass(frozen=True, slots=True)
class Selection:
    """Some tenants and all tenants of some services; of all services if both are empty."""

    tenants: frozenset[TenantName] = frozenset()
    services: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, selectors: Sequence[str]) -> Self:
        """Reads selectors, each `notes:alice` or `notes`. Raises InvalidName."""
        tenants = {TenantName.parse(each) for each in selectors if ":" in each}
        services = {check_service(each) for each in selectors if ":" not in each}
        return cls(frozenset(tenants), frozenset(services))

    @property
    def everything(self) -> bool:
        """Whether all tenants are wanted."""
        return not self.tenants and not self.services

    def has(self, unit: str) -> bool:
        """Whether a unit is that of a wanted tenant."""
        name = TenantName.parse_unit(unit)
        if name is None:
            return False
        return self.everything or name in self.tenants or name.service in self.services
