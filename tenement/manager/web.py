"""What the manager offers to the HTTP API, the dashboard and /metrics."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from dbus_fast import Variant

from tenement import counters
from tenement.config import Service
from tenement.errors import InvalidName
from tenement.lifecycle import AWAKE, State
from tenement.manager import inventory
from tenement.manager.access import Access
from tenement.manager.bus_service import TENANT, Method, arguments
from tenement.manager.disk_use import DiskUse
from tenement.manager.events import Events
from tenement.manager.health import health
from tenement.manager.log_streams import LogStreams
from tenement.manager.measurements import Measurements
from tenement.manager.supervisor import Supervisor, Tenant
from tenement.names import TenantName, check_service
from tenement.tokens import TokenStore
from tenement.usage import use_of

_QUIET: Final = frozenset({State.ASLEEP, State.DISABLED, State.ARMED, State.ARMING, State.FAILED})
_SORTS: Final[dict[str, Callable[[Tenant], Any]]] = {
    "tenant": lambda tenant: tenant.name,
    "state": lambda tenant: tenant.state,
    "since": lambda tenant: tenant.life.since,
    "last_used": lambda tenant: tenant.last_used_at or 0.0,
}


class Web:
    """The parts behind the HTTP API, put together. Counts of tenants' lives are kept in `counts`."""

    def __init__(self, supervisor: Supervisor, tokens: TokenStore, counts: Path) -> None:
        self._supervisor = supervisor
        self._tokens = tokens
        self._measurements = Measurements(counts)
        self.disk_use = DiskUse()
        self._streams = LogStreams()
        self.events = Events(self._describe)
        self.access = Access(tokens, self.events, self._streams, self)
        self.tls_status: Callable[[], str] = lambda: "{}"

    async def close(self) -> None:
        """End every stream and measurement."""
        self.events.close()
        await self._streams.close()
        await self.disk_use.close()

    def changed(self, tenant: Tenant, before: State) -> None:
        """A tenant is in another state now."""
        self._measurements.changed(tenant, before)
        self.events.changed(tenant, before)
        if tenant.state is State.GONE:
            self._tokens.forget_tenant(tenant.name)
            self.disk_use.forget(tenant.name)
        elif tenant.state is State.ASLEEP and before in AWAKE:
            self.disk_use.used(tenant.name)

    def exists(self, name: TenantName) -> bool:
        """Whether there is such a tenant."""
        return name in self._supervisor.tenants

    def health(self, service: str, id_: str) -> str:
        """How a tenant is, as a JSON object; asking never wakes it. Raises NotFound.

        `health` is "healthy", "degraded" or "unhealthy" while it runs, else its state.
        """
        tenant = self._supervisor.get(TenantName(service, id_))
        running = tenant.state is State.RUNNING
        return json.dumps(
            {
                "tenant": str(tenant.name),
                "state": str(tenant.state),
                "health": str(health(tenant.health_failures)) if running else str(tenant.state),
                "reason": tenant.life.reason,
            }
        )

    async def storage(self, service: str, id_: str) -> str:
        """The room a tenant's data takes, as a JSON object; asking never wakes it. Raises NotFound."""
        tenant = self._supervisor.get(TenantName(service, id_))
        config = self._supervisor.config.services.get(service, Service())
        found = await self.disk_use.of(tenant.name)
        return json.dumps(
            {
                "tenant": str(tenant.name),
                "bytes": found.bytes,
                "files": found.files,
                "quota_bytes": config.storage_quota_mb * 1024 * 1024 or None,
                "measured": round(found.at, 3),
            }
        )

    def services(self) -> str:
        """The services and how many of their tenants are in which state, as a JSON array."""
        states: dict[str, Counter[str]] = {}
        for tenant in self._supervisor.tenants.values():
            states.setdefault(tenant.name.service, Counter())[str(tenant.state)] += 1
        config = self._supervisor.config
        return json.dumps(
            [
                _service(name, config.services.get(name), states.get(name, Counter()))
                for name in sorted({*config.services, *states})
            ]
        )

    def find(self, service: str, states: str, search: str, sort: str, limit: int, offset: int) -> str:
        """Some tenants, and how many there are in all, as a JSON object. Raises InvalidName, NotFound.

        `states` is a list with commas, "" for all; `search` is found in the name; `sort` is "tenant",
        "state", "since" or "last_used", with "-" before it from the end.
        """
        found = self._select(service, states, search)
        key = _SORTS.get(sort.removeprefix("-"))
        if key is None:
            raise InvalidName.of("order", sort, f"must be one of {', '.join(_SORTS)}")
        found.sort(key=_SORTS["tenant"])
        if key is not _SORTS["tenant"]:
            found.sort(key=key)
        if sort.startswith("-"):
            found.reverse()
        page = [self._describe(tenant) for tenant in found[offset : offset + limit]]
        return json.dumps({"total": len(found), "tenants": page})

    async def usage(self, name: str) -> str:
        """What tenants use and have answered so far, as a JSON array: one, or all that are not asleep."""
        if name:
            chosen = [self._supervisor.get(TenantName.parse(name))]
        else:
            chosen = [each for each in self._supervisor.tenants.values() if each.state not in _QUIET]
        known = [(each.name, str(each.state), len(each.life.leases)) for each in chosen]
        return json.dumps(await asyncio.to_thread(_usage, known))

    def settings(self) -> str:
        """What the HTTP API has to know of the configuration, as a JSON object."""
        settings = self._supervisor.config.settings
        return json.dumps(
            {
                "domains": settings.domains,
                "dashboard": settings.dashboard,
                "metrics_allow": settings.metrics_allow,
                "metrics_per_tenant": settings.metrics_per_tenant,
            }
        )

    def measure(self) -> str:
        """The numbers for /metrics, as a JSON object."""
        document = self._measurements.document(self._supervisor.config, self._supervisor.tenants.values())
        document["disk_bytes"] = self.disk_use.known()
        document["certificates"] = {
            each["name"]: each["expires_at"]
            for each in json.loads(self.tls_status()).get("names", ())
            if each.get("expires_at")
        }
        return json.dumps(document)

    def _select(self, service: str, states: str, search: str) -> list[Tenant]:
        if service and service not in self._supervisor.config.services:
            check_service(service)
        wanted = frozenset(states.split(",")) if states else None
        search = search.strip().lower()
        return [
            tenant
            for name, tenant in self._supervisor.tenants.items()
            if service in ("", name.service)
            and (wanted is None or tenant.state in wanted)
            and (not search or search in f"{name.service}:{name.id}")
        ]

    def _describe(self, tenant: Tenant) -> dict[str, Any]:
        return inventory.summary(tenant, self._supervisor.config, asyncio.get_running_loop().time())


def _service(name: str, service: Service | None, states: Counter[str]) -> dict[str, Any]:
    """A service for people; None if the configuration has it no more."""
    answer: dict[str, Any] = {
        "service": name,
        "configured": service is not None,
        "tenants": states.total(),
        "states": dict(sorted(states.items())),
    }
    if service is not None:
        answer |= {
            "command": service.command,
            "listen": service.listen,
            "health_path": service.health,
            "idle_timeout_s": service.idle_timeout_s,
            "freeze_timeout_s": service.freeze_timeout_s,
            "memory_limit_mb": service.memory_limit_mb,
            "cpu_quota": service.cpu_quota,
            "tasks_max": service.tasks_max,
        }
    return answer


def _usage(known: list[tuple[TenantName, str, int]]) -> list[dict[str, Any]]:
    requests, now = counters.read(), time.time()
    answer = []
    for name, state, leases in known:
        counts = requests.get(str(name)) or counters.Counts()
        answer.append(
            {
                "tenant": str(name),
                "state": state,
                "time": now,
                "leases": leases,
                "requests": counts.requests,
                "errors": counts.by_class[-1],
                "sent_bytes": counts.sent_bytes,
                **asdict(use_of(name)),
            }
        )
    return answer


def methods(web: Web) -> list[Method]:
    """The methods on the bus. Those with a token are what user tenement-api may call."""
    access = web.access

    async def verify(_: str, token: str) -> list[Any]:
        return [access.verify(token)]

    async def act(sender: str, token: str, peer: str, member: str, values: list[Variant]) -> list[Any]:
        return [await access.act(sender, token, peer, member, values)]

    async def open_logs(_: str, *values: Any) -> list[Any]:
        return [await access.open_logs(*values)]

    async def open_events(_: str, token: str) -> list[Any]:
        return [access.open_events(token)]

    async def open_session(_: str, token: str, peer: str) -> list[Any]:
        return [access.open_session(token, peer)]

    async def close_session(_: str, token: str) -> list[Any]:
        access.close_session(token)
        return []

    async def create_token(_: str, scope: str, tenant: str, name: str, expires_s: float) -> list[Any]:
        return [access.create_token(scope, tenant, name, expires_s)]

    async def list_tokens(_: str) -> list[Any]:
        return [access.list_tokens()]

    async def revoke_token(_: str, id_: str) -> list[Any]:
        access.revoke_token(id_)
        return []

    async def health_of(_: str, service: str, id_: str) -> list[Any]:
        return [web.health(service, id_)]

    async def storage(_: str, service: str, id_: str) -> list[Any]:
        return [await web.storage(service, id_)]

    async def events(_: str, tenant: str) -> list[Any]:
        return [json.dumps(web.events.latest(tenant))]

    async def services(_: str) -> list[Any]:
        return [web.services()]

    async def settings(_: str) -> list[Any]:
        return [web.settings()]

    async def measure(_: str) -> list[Any]:
        return [web.measure()]

    async def find(_: str, *values: Any) -> list[Any]:
        return [web.find(*values)]

    async def usage(_: str, tenant: str) -> list[Any]:
        return [await web.usage(tenant)]

    token = arguments("s token")
    new = arguments("s scope, s tenant, s name, d expires_s")
    stream = arguments("s token, s service, s id, u lines, d since_s, s level, s cursor, b follow")
    return [
        Method("VerifyToken", token, arguments("s token"), verify),
        Method("Act", arguments("s token, s peer, s member, av values"), arguments("av results"), act),
        Method("OpenLogs", stream, arguments("h stream"), open_logs),
        Method("OpenEvents", token, arguments("h stream"), open_events),
        Method("OpenSession", arguments("s token, s peer"), arguments("s session"), open_session),
        Method("CloseSession", token, (), close_session),
        Method("WebSettings", (), arguments("s settings"), settings),
        Method("Measure", (), arguments("s numbers"), measure),
        Method("CreateToken", new, arguments("s token"), create_token),
        Method("ListTokens", (), arguments("s tokens"), list_tokens),
        Method("RevokeToken", arguments("s id"), (), revoke_token),
        Method("Health", TENANT, arguments("s health"), health_of),
        Method("Storage", TENANT, arguments("s storage"), storage),
        Method(
            "Find",
            arguments("s service, s states, s search, s sort, u limit, u offset"),
            arguments("s page"),
            find,
        ),
        Method("Usage", arguments("s tenant"), arguments("s usage"), usage),
        Method("Events", arguments("s tenant"), arguments("s events"), events),
        Method("Services", (), arguments("s services"), services),
    ]
