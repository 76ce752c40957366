"""What the manager counts, by service: wakes and how long they took, sleeps, restarts, failures.

Numbers start at zero with every run of the manager; Prometheus knows how to go on from there.
"""

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from tenement.config import Config
from tenement.lifecycle import State
from tenement.manager.supervisor import Tenant

WAKE_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of wake durations, in seconds; one more bucket has no bound."""

_WAKES: Final = {State.QUEUED: "asleep", State.THAWING: "frozen"}
# A request may come while the gate is being built.
_ARMED: Final = (State.ARMING, State.ARMED)
_FAILURES: Final = (State.BACKOFF, State.FAILED)


@dataclass(slots=True)
class Durations:
    """A histogram."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(WAKE_BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, duration_s: float) -> None:
        """Count one duration in seconds."""
        self.buckets[bisect_left(WAKE_BOUNDS_S, duration_s)] += 1
        self.sum_s += duration_s


@dataclass(slots=True)
class ServiceCounts:
    """The counts of one service."""

    wakes: dict[str, Durations] = field(
        default_factory=lambda: {kind: Durations() for kind in ("asleep", "armed", "frozen")}
    )
    sleeps: Counter[str] = field(default_factory=lambda: Counter({"frozen": 0, "asleep": 0}))
    restarts: int = 0
    failures: int = 0


class Measurements:
    """Counts what happens to tenants."""

    def __init__(self) -> None:
        self._services: dict[str, ServiceCounts] = {}
        self._waking: dict[Tenant, tuple[str, float]] = {}

    def changed(self, tenant: Tenant, before: State) -> None:
        """A tenant is in another state now."""
        state, counts = tenant.state, self._of(tenant.name.service)
        now = asyncio.get_running_loop().time()
        if kind := _WAKES.get(state, "armed" if state is State.STARTING and before in _ARMED else ""):
            self._waking[tenant] = (kind, now)
        elif state is State.RUNNING:
            kind, began = self._waking.pop(tenant, ("", now))
            if kind:
                counts.wakes[kind].add(now - began)
        elif state is not State.STARTING:
            self._waking.pop(tenant, None)
        if state is State.FROZEN:
            counts.sleeps["frozen"] += 1
        elif before is State.STOPPING and state in (State.ASLEEP, State.QUEUED):
            # Queued: somebody wants it again already.
            counts.sleeps["asleep"] += 1
        elif state in _FAILURES:
            counts.failures += 1
        elif state is State.STARTING and before is State.BACKOFF:
            counts.restarts += 1

    def document(self, config: Config, tenants: Iterable[Tenant]) -> dict[str, Any]:
        """Everything, as plain values for JSON. Tenants are named only if `metrics_per_tenant` is set."""
        states: dict[str, Counter[str]] = {}
        leases: Counter[str] = Counter()
        named = []
        for tenant in tenants:
            service = tenant.name.service
            states.setdefault(service, Counter())[str(tenant.state)] += 1
            leases[service] += len(tenant.life.leases)
            if config.settings.metrics_per_tenant:
                named.append([str(tenant.name), str(tenant.state), len(tenant.life.leases)])
        services = {}
        for service in sorted({*config.services, *states, *self._services}):
            counts = self._of(service)
            services[service] = {
                "states": dict(states.get(service, ())),
                "leases": leases[service],
                "wakes": {kind: [each.buckets, each.sum_s] for kind, each in counts.wakes.items()},
                "sleeps": dict(counts.sleeps),
                "restarts": counts.restarts,
                "failures": counts.failures,
            }
        return {"bounds": WAKE_BOUNDS_S, "services": services, "tenants": named}

    def _of(self, service: str) -> ServiceCounts:
        counts = self._services.get(service)
        if counts is None:
            counts = self._services[service] = ServiceCounts()
        return counts
