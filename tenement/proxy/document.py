"""What the manager tells workers of hosts, services and tenants, as JSON: the routes document and changes."""

import msgspec

from tenement.tls.selection import Certificate


class Policy(msgspec.Struct, frozen=True):
    """What a service asks of the proxy. Zero means no limit. See tenement.toml(5)."""

    request_timeout_s: float = 60.0
    startup_timeout_s: float = 30.0
    drain_timeout_s: float = 30.0
    max_body_bytes: int = 0
    max_header_bytes: int = 65536
    max_requests: int = 0
    rate_limit_rps: float = 0
    sticky: bool = False
    waiting_page: bool = False
    error_pages: str = ""
    idle_ignores_upgrades: bool = False


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
