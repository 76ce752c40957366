"""What `ten domain` does, and whether a domain leads to this server."""

import ipaddress
import socket
import sys
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from tenement.cli.tenants import run
from tenement.cli.text import Screen, out, out_json, table
from tenement.errors import Conflict
from tenement.names import TenantName, check_domain

type Lookup = Callable[[str], set[str]]


def add(tenant: str, domain: str, *, check: bool) -> int:
    """Gives a domain to a tenant."""
    name = TenantName.parse(tenant)
    ascii_form = check_domain(domain)
    if check:
        known = run(lambda client: client.list(str(name)))
        hosts = [urlsplit(str(entry.get("url", ""))).hostname for entry in known]
        check_leads_here(ascii_form, [host for host in hosts if host], lookup, own_addresses())
    run(lambda client: client.add_domain(name.service, name.id, domain))
    out(f"{ascii_form}  {name}")
    return 0


def remove(domain: str) -> int:
    """Takes a domain from its tenant."""
    check_domain(domain)
    run(lambda client: client.remove_domain(domain))
    return 0


def listing(selector: str, *, as_json: bool) -> int:
    """Lists domains."""
    if selector:
        TenantName.parse(selector) if ":" in selector else check_domain(selector)
    entries = run(lambda client: client.domains(selector))
    if as_json:
        out_json(entries)
        return 0
    rows = [(_spelt(entry), entry["tenant"]) for entry in entries]
    for line in table(("DOMAIN", "TENANT"), rows, Screen.of(sys.stdout)):
        out(line)
    return 0


def check_leads_here(domain: str, hosts: Iterable[str], find: Lookup, own: set[str]) -> None:
    """Raises Conflict unless a domain has an address of this server.

    Behind an address translator the server does not know its public address; then it is right if the domain
    leads where the tenant's own host leads.
    """
    addresses = find(domain)
    if not addresses:
        raise Conflict(f"{domain}: has no address yet. Let it point to this server first, or say --no-check")
    expected = set(own)
    for host in hosts:
        expected |= find(host)
    if foreign := addresses - expected:
        raise Conflict(
            f"{domain}: leads to {', '.join(sorted(foreign))}, which is not this server "
            f"({', '.join(sorted(expected)) or 'no address known'}). "
            "Let it point here first, or say --no-check"
        )


def lookup(host: str) -> set[str]:
    """The addresses of a host; none if it has none or nobody can tell."""
    try:
        found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {str(ipaddress.ip_address(str(entry[4][0]).partition("%")[0])) for entry in found}


def own_addresses() -> set[str]:
    """The addresses of this machine."""
    import json
    import subprocess

    try:
        text = subprocess.run(["ip", "-j", "address"], capture_output=True, check=True, timeout=5).stdout
        links = json.loads(text)
    except (OSError, subprocess.SubprocessError, ValueError):
        return set()
    return {str(entry["local"]) for link in links for entry in link.get("addr_info", []) if "local" in entry}


def _spelt(entry: dict[str, str]) -> str:
    """A domain, with its other spelling if it has one."""
    domain, shown = entry["domain"], entry.get("shown", entry["domain"])
    return domain if shown == domain else f"{domain} ({shown})"
