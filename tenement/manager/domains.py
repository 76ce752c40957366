"""Customers' own domains: whose they are, and which names nobody may claim."""

import json
from collections.abc import Callable
from typing import Any

from tenement.config import Config
from tenement.errors import Conflict, InvalidName
from tenement.manager.supervisor import Supervisor
from tenement.names import TenantName, check_domain
from tenement.tls.records import TlsRecords


class Domains:
    """The customers' domains. `announce` tells workers of changed routes, `changed` is called after each
    change.
    """

    def __init__(
        self,
        records: TlsRecords,
        supervisor: Supervisor,
        announce: Callable[[dict[str, Any]], None],
        changed: Callable[[], None],
    ) -> None:
        self._records = records
        self._supervisor = supervisor
        self._announce = announce
        self._changed = changed
        self._owners = records.domains()

    @property
    def owners(self) -> dict[str, TenantName]:
        """The domains that are served, and whose they are. What the operator configures comes before them."""
        config = self._supervisor.config
        return {name: owner for name, owner in self._owners.items() if not _operators(name, config)}

    def add(self, service: str, id_: str, text: str) -> str:
        """Give a domain to a tenant; its ASCII form. Raises NotFound, InvalidName, AlreadyExists."""
        tenant = self._supervisor.get(TenantName(service, id_)).name
        domain = check_domain(text)
        if "." not in domain:
            raise InvalidName.of("domain", text, "must have a dot: such names exist on this server only")
        if operators := _operators(domain, self._supervisor.config):
            raise Conflict(f"{domain}: {operators}", tenant=str(tenant))
        if self._owners.get(domain) == tenant:
            return domain
        self._records.add_domain(domain, tenant)
        self._owners[domain] = tenant
        self._announce({"hosts": {domain: str(tenant)}})
        self._changed()
        return domain

    def remove(self, text: str) -> None:
        """Take a domain from its tenant. Raises NotFound, InvalidName."""
        domain = check_domain(text)
        self._records.remove_domain(domain)
        del self._owners[domain]
        self._announce({"hosts": {domain: self._supervisor.config.routing.hosts.get(domain)}})
        self._changed()

    def listing(self, selector: str) -> str:
        """A JSON array of all domains for "", those of a service, or of one tenant."""
        return json.dumps(
            [
                {"domain": domain, "shown": shown(domain), "tenant": str(owner)}
                for domain, owner in sorted(self._owners.items())
                if selector in ("", owner.service, str(owner))
            ]
        )

    def forget(self, tenant: TenantName) -> None:
        """A tenant is gone: its domains are free."""
        for domain in [domain for domain, owner in self._owners.items() if owner == tenant]:
            self.remove(domain)


def shown(domain: str) -> str:
    """A domain as people write it: bücher.example for xn--bcher-kva.example."""
    try:
        return domain.encode("ascii").decode("idna")
    except UnicodeError:
        return domain


def _operators(domain: str, config: Config) -> str:
    """Why a domain is the operator's; empty if it is not."""
    for base in config.settings.domains:
        if domain == base or domain.endswith("." + base):
            return f"belongs to {base}, which is this server's own"
    if domain in config.routing.hosts:
        return "is in [routing] hosts of the configuration"
    return ""
