"""What the parts of the HTTP API share: the manager, the limits, the settings."""

import ipaddress
import time
from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web

from tenement.api.manager import Manager
from tenement.api.throttle import Throttle
from tenement.errors import TenementError

_SETTINGS_FRESH_S: Final = 5.0
_FAILURE_RATE_RPS, _FAILURE_BURST = 0.2, 20.0
_TOKEN_RATE_RPS, _TOKEN_BURST = 100.0, 400.0
_NO_SETTINGS: Final[dict[str, Any]] = {"dashboard": True, "metrics_allow": [], "domains": []}


class Context:
    """One process's state."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        # Guessing a secret of 256 bits is hopeless at any rate: this keeps the manager from being kept busy.
        self.failures = Throttle(_FAILURE_RATE_RPS, _FAILURE_BURST)
        self.requests = Throttle(_TOKEN_RATE_RPS, _TOKEN_BURST)
        self._settings = _NO_SETTINGS
        self._settings_at = 0.0

    async def settings(self) -> dict[str, Any]:
        """The settings that concern the API, seconds old at most; the last known if there is no manager."""
        now = time.monotonic()
        if now - self._settings_at > _SETTINGS_FRESH_S or not self._settings_at:
            try:
                self._settings = await self.manager.settings()
            except TenementError:
                return self._settings
            self._settings_at = now
        return self._settings


CONTEXT: Final = web.AppKey("CONTEXT", Context)


def client_address(request: web.Request) -> str:
    """The client's address, by the word of the proxy, which alone can connect to our socket."""
    return request.headers.get("X-Real-IP", "local")[:64]


def is_secure(request: web.Request) -> bool:
    """Whether the client speaks TLS, by the word of the proxy."""
    return request.headers.get("X-Forwarded-Proto") == "https"


def in_networks(address: str, networks: Sequence[str]) -> bool:
    """Whether an address is in one of some networks; anything that is no address is in none."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return any(parsed in ipaddress.ip_network(network, strict=False) for network in networks)
