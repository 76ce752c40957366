"""What the parts of the HTTP API share: the manager, the limits, the settings."""

import hashlib
import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any, Final

from aiohttp import web

from tenement.api.manager import Manager
from tenement.api.problems import Refusal
from tenement.api.throttle import Throttle
from tenement.errors import TenementError, Unauthorized

_SETTINGS_FRESH_S: Final = 5.0
_FAILURE_RATE_RPS, _FAILURE_BURST = 1.0, 300.0
_HISTORIES_MAX, _HISTORY_POINTS = 200, 90
_GOOD_MAX: Final = 1000
_TOKEN_RATE_RPS, _TOKEN_BURST = 100.0, 400.0
_NO_SETTINGS: Final[dict[str, Any]] = {"dashboard": True, "metrics_allow": [], "domains": []}


class Context:
    """One process's state."""

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        # Guessing a secret of 256 bits is hopeless at any rate: this keeps the manager from being kept busy.
        # Tokens that were good lately are let through, so that nobody is shut out by others at his address.
        self.failures = Throttle(_FAILURE_RATE_RPS, _FAILURE_BURST)
        self.requests = Throttle(_TOKEN_RATE_RPS, _TOKEN_BURST)
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._histories: OrderedDict[str, deque[dict[str, Any]]] = OrderedDict()
        self._settings = _NO_SETTINGS
        self._settings_at = 0.0

    def history(self, tenant: str) -> deque[dict[str, Any]]:
        """What pages saw lately of what a tenant uses; of very many tenants the oldest is forgotten."""
        if tenant not in self._histories:
            self._histories[tenant] = deque(maxlen=_HISTORY_POINTS)
            if len(self._histories) > _HISTORIES_MAX:
                self._histories.popitem(last=False)
        return self._histories[tenant]

    async def verify(self, token: str, peer: str) -> dict[str, Any]:
        """What the token is. Raises Unauthorized, or Refusal after too many bad ones from this address."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        wait_s = self.failures.wait_s(peer)
        if wait_s and digest not in self._good:
            raise Refusal(429, "Too many attempts without a good token", retry_after_s=wait_s)
        try:
            known = await self.manager.verify(token)
        except Unauthorized:
            self._good.pop(digest, None)
            self.failures.take(peer)
            raise
        self._good[digest] = None
        if len(self._good) > _GOOD_MAX:
            self._good.popitem(last=False)
        return known

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
    text = request.headers.get("X-Real-IP", "local")[:64]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def is_secure(request: web.Request) -> bool:
    """Whether the client speaks TLS, by the word of the proxy."""
    return request.headers.get("X-Forwarded-Proto") == "https"


def in_networks(address: str, networks: Sequence[str]) -> bool:
    """Whether an address is in one of some networks; anything that is no address is in none."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in ipaddress.ip_network(network, strict=False) for network in networks)
