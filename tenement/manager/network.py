"""The network rules of tenants on this host: what of them depends on how the host is set up."""

from pathlib import Path
from typing import Final

from tenement.config import Service
from tenement.systemd import Property
from tenement.unit_properties import RESOLVERS, slice_unit

_RESOLV_CONF: Final = Path("/etc/resolv.conf")


def slice_properties(service: Service, own_addresses: list[str]) -> list[Property]:
    """The properties of a service's slice on this host."""
    return slice_unit(service, own_addresses, used_resolvers())


def name_servers(resolv_conf: Path = _RESOLV_CONF) -> list[str]:
    """The addresses of the name servers that programs on this host ask. See resolv.conf(5)."""
    try:
        lines = resolv_conf.read_text(errors="replace").splitlines()
    except OSError:
        return []
    words = [line.split() for line in lines]
    return [each[1] for each in words if len(each) > 1 and each[0] == "nameserver"]


def used_resolvers(resolv_conf: Path = _RESOLV_CONF) -> list[str]:
    """The stubs of systemd-resolved that the host uses, and that tenants may therefore ask."""
    return [each for each in name_servers(resolv_conf) if each in RESOLVERS]
