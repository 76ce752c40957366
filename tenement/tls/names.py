"""Which names need a certificate: only those that an operator configured, never those that visitors ask for.
Pure.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from tenement.config import Config
from tenement.names import TenantName

LINEAGE_PREFIX: Final = "tenement-"
"""Begins the names of certbot's certificates that are tenement's; all others are left alone."""


class Want(NamedTuple):
    """A name that needs a certificate.

    Names with the same `bundle` may share one, and if `together` they always do. The authority counts
    certificates by `group`: a base domain, or a customer's own domain. `dns` asks for dns-01, else http-01.
    """

    name: str
    bundle: str
    group: str
    dns: bool = False
    together: bool = False


def wanted(
    config: Config, tenants: Iterable[TenantName], domains: Mapping[str, TenantName], *, dns: bool
) -> list[Want]:
    """All names, important ones first. `domains` are the customers' own; `dns`: there is dns-01."""
    found: dict[str, Want] = {}
    bases = [domain for domain in config.settings.domains if obtainable(domain)]
    names = [] if dns else [tenant for tenant in tenants if tenant.service in config.services]
    for base in bases:
        wants = _by_dns(config, base) if dns else _by_http(config, base, names)
        found.update((want.name, want) for want in wants)
    for host in (*config.routing.hosts, *domains):
        covered = host in found or (dns and "*." + host.partition(".")[2] in found)
        if not covered and obtainable(host):
            found[host] = Want(host, host, next((each for each in bases if _below(host, each)), host))
    return list(found.values())


def obtainable(name: str) -> bool:
    """Whether a public authority could know the name at all."""
    return "." in name and not name.endswith(".localhost")


def lineage_name(first: str) -> str:
    """certbot's name for the certificate whose first name is `first`."""
    return LINEAGE_PREFIX + first.replace("*", "_")


def _by_dns(config: Config, base: str) -> Iterator[Want]:
    """A wildcard covers one label, so each service needs its own."""
    yield Want(base, base, base, dns=True, together=True)
    yield Want(f"*.{base}", base, base, dns=True, together=True)
    for service in config.services:
        wildcard = f"*.{service}.{base}"
        yield Want(wildcard, wildcard, base, dns=True, together=True)


def _by_http(config: Config, base: str, tenants: Iterable[TenantName]) -> Iterator[Want]:
    yield Want(base, base, base)
    for tenant in tenants:
        yield Want(tenant.host(base), f"*.{tenant.service}.{base}", base)
    for service in config.services:
        yield Want(f"{service}.{base}", f"{service}.{base}", base)


def _below(name: str, base: str) -> bool:
    return name == base or name.endswith("." + base)
