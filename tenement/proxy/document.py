"""What the manager tells workers of hosts, services and tenants, as JSON: the routes document and changes."""

import msgspec

from tenement.proxy.policy import Policy
from tenement.tls.selection import Certificate


class TenantEntry(msgspec.Struct, frozen=True):
    """A tenant as the routes document has it."""

    weight: int = 100
    enabled: bool = True
    sick: bool = False


class TlsPolicy(msgspec.Struct, frozen=True):
    """How TLS is served. `default` is the host meant by clients that name none; `hsts_s` 0: no HSTS."""

    enabled: bool = False
    default: str | None = None
    hsts_s: int = 0


class Document(msgspec.Struct, frozen=True):
    """The routes document: the reply of `GetRoutes`."""

    domains: list[str] = []
    default: str | None = None
    hosts: dict[str, str] = {}
    paths: list[tuple[str, str]] = []
    root: str | None = None
    trusted_proxies: list[str] = []
    proxy_protocol_from: list[str] = []
    access_log: str = "errors"
    sticky_key: str = ""
    tls: TlsPolicy = TlsPolicy()
    certificates: dict[str, Certificate] = {}
    challenges: dict[str, str] = {}
    services: dict[str, Policy] = {}
    tenants: dict[str, TenantEntry] = {}


class Change(msgspec.Struct, frozen=True):
    """What `RoutesChanged` carries: what is new, other or gone (None); or everything has to be read anew."""

    tenants: dict[str, TenantEntry | None] = {}
    hosts: dict[str, str | None] = {}
    certificates: dict[str, Certificate | None] = {}
    challenges: dict[str, str | None] = {}
    reload: bool = False
