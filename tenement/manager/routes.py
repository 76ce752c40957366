"""The routes document that the workers get: which host leads where, and each service's limits. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tenement.config import Config, Service
from tenement.lifecycle import Goal, State
from tenement.manager.supervisor import Tenant
from tenement.names import TenantName

API_ADDRESS: Final = "unix:/run/tenement-api/http.sock"
"""Where tenement-api.socket listens: the upstream of the base domain."""


def tenant_route(tenant: Tenant) -> dict[str, Any]:
    """What a worker needs to know of one tenant."""
    enabled = tenant.state is not State.DISABLED and tenant.life.goal is not Goal.DISABLE
    return {"weight": tenant.weight, "enabled": enabled} | ({"sick": True} if tenant.sick else {})


def service_route(service: Service) -> dict[str, Any]:
    """What a worker needs to know of one service: its limits, in seconds and bytes; 0 means no limit."""
    return {
        "request_timeout_s": service.request_timeout_s,
        "startup_timeout_s": service.startup_timeout_s,
        "drain_timeout_s": service.drain_timeout_s,
        "max_body_bytes": service.max_body_mb * 1024 * 1024,
        "max_header_bytes": service.max_header_kb * 1024,
        "max_requests": service.max_requests,
        "rate_limit_rps": service.rate_limit,
        "sticky": service.sticky,
        "waiting_page": service.waiting_page,
        "error_pages": service.error_pages or "",
        "idle_ignores_upgrades": service.idle_ignores_upgrades,
    }


def document(config: Config, tenants: Iterable[Tenant], domains: Mapping[str, TenantName]) -> dict[str, Any]:
    """The complete table; `domains` are the customers' own."""
    return {
        "domains": list(config.settings.domains),
        "default": config.routing.default,
        "hosts": {domain: str(owner) for domain, owner in domains.items()} | config.routing.hosts,
        "paths": [
            [path, config.routing.paths[path]] for path in sorted(config.routing.paths, key=len, reverse=True)
        ],
        "root": API_ADDRESS,
        "trusted_proxies": list(config.settings.trusted_proxies),
        "proxy_protocol_from": list(config.settings.proxy_protocol_from),
        "access_log": config.settings.access_log,
        "services": {name: service_route(service) for name, service in config.services.items()},
        # A tenant whose service left the configuration has no route.
        "tenants": {str(t.name): tenant_route(t) for t in tenants if t.name.service in config.services},
    }
