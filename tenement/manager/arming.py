"""Keeps the most recently used of the sleeping tenants armed: their units are built and wait behind a gate.

One task does it, one tenant after the other, and only while nothing starts: arming takes nothing from a wake.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from tenement.lifecycle import State
from tenement.manager.supervisor import Supervisor, Tenant
from tenement.names import TenantName

log = logging.getLogger(__name__)

_SHORTEST_PAUSE_S: Final = 0.05


class Arming:
    """The armed tenants, and those that are about to be."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        # Sleeping tenants that should be armed, the most recently used last; at most armed_max.
        self._recent: OrderedDict[TenantName, None] = OrderedDict()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, tenants: Iterable[Tenant]) -> None:
        """Begin with the tenants that were used last before the manager started."""
        used = [t for t in tenants if t.last_used_at is not None and t.state in (State.ASLEEP, State.ARMED)]
        used.sort(key=lambda tenant: tenant.last_used_at or 0.0)
        for tenant in used[-self._limit :] if self._limit else []:
            self._recent[tenant.name] = None
        self._changed.set()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop arming; what is armed stays so."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def changed(self, tenant: Tenant, before: State) -> None:
        """A tenant is in another state."""
        match tenant.state:
            case State.ASLEEP if tenant.served:
                self._recent[tenant.name] = None
                self._recent.move_to_end(tenant.name)
                self._trim()
            case State.ASLEEP | State.STOPPING if before is State.ARMING:
                # It could not be armed: not before its next use.
                self._recent.pop(tenant.name, None)
            case State.ASLEEP | State.ARMING | State.ARMED | State.STOPPING:
                pass
            case _:
                self._recent.pop(tenant.name, None)
        self._changed.set()

    def configure(self) -> None:
        """The configuration changed."""
        self._trim()
        self._changed.set()

    @property
    def _limit(self) -> int:
        return self._supervisor.config.settings.armed_max

    def _trim(self) -> None:
        while len(self._recent) > self._limit:
            name, _ = self._recent.popitem(last=False)
            tenant = self._supervisor.tenants.get(name)
            if tenant is not None and tenant.state is State.ARMED:
                self._supervisor.expel(tenant, "others were used more recently")

    def _next(self) -> Tenant | None:
        """The most recently used tenant that is still to be armed."""
        for name in reversed(self._recent):
            tenant = self._supervisor.tenants.get(name)
            if tenant is not None and tenant.state is State.ASLEEP and self._armable(tenant):
                return tenant
        return None

    def _armable(self, tenant: Tenant) -> bool:
        return tenant.name.service in self._supervisor.config.services

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._supervisor.quiet and (tenant := self._next()) is not None:
                began = loop.time()
                self._supervisor.prepare(tenant)
                while tenant.state is State.ARMING:
                    await self._changed.wait()
                    self._changed.clear()
                # At most half of the time, so that PID 1 is there for others.
                await asyncio.sleep(max(_SHORTEST_PAUSE_S, loop.time() - began))
