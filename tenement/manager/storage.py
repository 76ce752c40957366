"""What happens to a tenant whose data outgrows `storage_quota_mb`."""

import asyncio
import logging
import math
from typing import Final

from tenement.config import Service
from tenement.errors import StartFailed
from tenement.lifecycle import AWAKE, State
from tenement.manager.disk_use import DiskUse
from tenement.manager.supervisor import Supervisor, Tenant
from tenement.names import TenantName

log = logging.getLogger(__name__)

_MB: Final = 1024 * 1024
# Between two rounds of measuring at least this long, and ten times as long as the round took: a tenth of a
# core at most.
_PAUSE_S: Final = 5.0
_PAUSE_FACTOR: Final = 10.0


class Quotas:
    """Stops tenants whose data outgrows `storage_quota_mb`, and starts them again only when it fits.

    The data is measured while the tenant runs, once more when it has gone to sleep, and never while it
    sleeps. Between two measures it may outgrow the quota; a single file cannot (LimitFSIZE=).
    """

    def __init__(self, supervisor: Supervisor, disk_use: DiskUse, pause_s: float = _PAUSE_S) -> None:
        self._supervisor = supervisor
        self._disk_use = disk_use
        self._pause_s = pause_s
        self._running: dict[TenantName, Tenant] = {}
        self._to_measure: set[TenantName] = set()
        self._over: set[TenantName] = set()
        self._task: asyncio.Task[None] | None = None
        supervisor.before_start = self.check_start

    def changed(self, tenant: Tenant, before: State) -> None:
        """A tenant is in another state: measure it while it runs, and when it has stopped running."""
        name = tenant.name
        if tenant.state is State.RUNNING and self._quota_bytes(name):
            self._running[name] = tenant
        elif tenant.state not in AWAKE:
            if self._running.pop(name, None) is not None and before in AWAKE:
                self._to_measure.add(name)
            if tenant.state is State.GONE:
                self._over.discard(name)
                self._to_measure.discard(name)
        if (self._running or self._to_measure) and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._measure())

    async def check_start(self, service: Service, name: TenantName) -> None:
        """Before a tenant starts: if it was above its quota, it must fit again. Raises StartFailed."""
        if name not in self._over:
            return
        if fault := await self._fault(name, fresh_s=0.0):
            raise StartFailed(fault, tenant=str(name))
        self._over.discard(name)

    async def close(self) -> None:
        """Measure no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # Private

    async def _measure(self) -> None:
        """Measure one after the other, as long as there are any."""
        loop = asyncio.get_running_loop()
        while self._running or self._to_measure:
            before = loop.time()
            for name in [*self._to_measure, *self._running]:
                self._to_measure.discard(name)
                if fault := await self._fault(name, fresh_s=self._pause_s / 2):
                    self._stop(name, fault)
            took_s = loop.time() - before
            if self._running:
                await asyncio.sleep(max(self._pause_s, took_s * _PAUSE_FACTOR))

    def _stop(self, name: TenantName, fault: str) -> None:
        self._over.add(name)
        tenant = self._running.pop(name, None)
        if tenant is not None and tenant.state in AWAKE:
            log.warning("%s: stopped: %s", name, fault, extra={"TENANT": str(name)})
            self._supervisor.fail(tenant, fault)

    async def _fault(self, name: TenantName, fresh_s: float) -> str | None:
        """What is wrong with the room that a tenant's data takes; None if it fits."""
        quota = self._quota_bytes(name)
        if not quota:
            return None
        used = (await self._disk_use.of(name, fresh_s)).bytes
        if used <= quota:
            return None
        return (
            f"its data takes {math.ceil(used / _MB)} MiB, and storage_quota_mb allows {quota // _MB}. "
            "Raise it, or delete some of the data."
        )

    def _quota_bytes(self, name: TenantName) -> int:
        service = self._supervisor.config.services.get(name.service)
        return service.storage_quota_mb * _MB if service else 0
