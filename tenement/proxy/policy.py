"""What a service asks of the proxy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
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
