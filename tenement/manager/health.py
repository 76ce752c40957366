"""Looks after running tenants: asks their health path, and restarts those that are sick.

One failure or two make a tenant degraded, three in a row unhealthy: then its processes are killed, and
systemd's own restart, with its backoff and its limit, applies as to any other crash. Nobody asks a tenant
that is not running.
"""

import asyncio
import enum
import logging
import signal
from collections.abc import Callable
from typing import Final

from tenement.config import Service
from tenement.lifecycle import State
from tenement.manager.readiness import NotReady, check
from tenement.manager.supervisor import Supervisor, Tenant
from tenement.manager.units import Units
from tenement.names import TenantName

log = logging.getLogger(__name__)

UNHEALTHY_AFTER: Final = 3
_CHECK_TIMEOUT_S: Final = 5.0
_SUSPICION_PAUSE_S: Final = 0.25


class Health(enum.StrEnum):
    """How a running tenant is."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


def health(failures: int) -> Health:
    """What so many failures in a row mean."""
    if failures >= UNHEALTHY_AFTER:
        return Health.UNHEALTHY
    return Health.DEGRADED if failures else Health.HEALTHY


class HealthChecks:
    """A task for each running tenant with a health path, and for each that a worker complained of."""

    def __init__(self, supervisor: Supervisor, units: Units, sick_changed: Callable[[Tenant], None]) -> None:
        """`sick_changed` is called when a tenant has become sick, or well again."""
        self._supervisor = supervisor
        self._units = units
        self._sick_changed = sick_changed
        self._tasks: dict[TenantName, asyncio.Task[None]] = {}
        self._doubts: dict[TenantName, asyncio.Event] = {}

    def changed(self, tenant: Tenant, _before: State) -> None:
        """A tenant is in another state: watch it while it runs, and only then."""
        self._settle(tenant)
        if tenant.state is State.RUNNING:
            tenant.health_failures = 0
            self._set_sick(tenant, False)
            service = self._supervisor.config.services.get(tenant.name.service)
            if service is not None and service.health is not None and service.health_check_interval_s:
                self._watch(tenant, service.health_check_interval_s)
            return
        if tenant.state in (State.BACKOFF, State.FAILED):
            # Until it has started again.
            self._set_sick(tenant, True)
        if (task := self._tasks.pop(tenant.name, None)) is not None:
            task.cancel()

    def suspect(self, tenant: Tenant, *, refused: bool) -> None:
        """A worker got no answer, or was `refused` a connection: ask now, and quickly again if that fails."""
        if tenant.state is not State.RUNNING:
            return
        doubted = refused and tenant.name not in self._doubts
        if doubted:
            self._doubts[tenant.name] = asyncio.Event()
        if doubted or not tenant.health_failures:
            self._watch(tenant, 0.0)

    async def settled(self, tenant: Tenant) -> None:
        """Wait while a tenant that refused a connection may be dead, and PID 1 has not said so yet.

        It is settled once it accepts a connection or changes its state, as one that goes on refusing does
        when it is killed for that. A lease granted before would be refused again.
        """
        if (doubt := self._doubts.get(tenant.name)) is not None:
            await doubt.wait()

    async def close(self) -> None:
        """Stop asking."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _settle(self, tenant: Tenant) -> None:
        if (doubt := self._doubts.pop(tenant.name, None)) is not None:
            doubt.set()

    def _set_sick(self, tenant: Tenant, sick: bool) -> None:
        if tenant.sick != sick:
            tenant.sick = sick
            self._sick_changed(tenant)

    def _watch(self, tenant: Tenant, first_pause_s: float) -> None:
        if (task := self._tasks.pop(tenant.name, None)) is not None:
            task.cancel()
        self._tasks[tenant.name] = asyncio.create_task(self._run(tenant, first_pause_s))

    async def _run(self, tenant: Tenant, pause_s: float) -> None:
        """Ask until the tenant runs no more, which cancels this task, or until it was killed."""
        generation = tenant.life.generation
        while True:
            await asyncio.sleep(pause_s)
            service = self._supervisor.config.services.get(tenant.name.service)
            fault = await self._ask(tenant)
            if tenant.state is not State.RUNNING or tenant.life.generation != generation or service is None:
                return
            if fault is None:
                tenant.health_failures = 0
                self._set_sick(tenant, False)
                if not service.health or not service.health_check_interval_s:
                    return
                pause_s = service.health_check_interval_s
                continue
            tenant.health_failures += 1
            self._set_sick(tenant, True)
            log.warning("%s: %s: %s", tenant.name, health(tenant.health_failures), fault)
            if tenant.health_failures >= UNHEALTHY_AFTER:
                tenant.life.reason = fault
                await self._units.kill(tenant.name, signal.SIGKILL)
                return
            pause_s = self._pause_s(service, pause_s)

    @staticmethod
    def _pause_s(service: Service, pause_s: float) -> float:
        return min(service.health_check_interval_s, pause_s) or _SUSPICION_PAUSE_S

    async def _ask(self, tenant: Tenant) -> str | None:
        """Why the tenant is not well; None if it is."""
        fault = None
        try:
            if tenant.instance is not None:
                async with asyncio.timeout(_CHECK_TIMEOUT_S):
                    await check(tenant.instance.probe)
        except NotReady as error:
            fault = str(error)
        except TimeoutError:
            fault = f"no answer within {_CHECK_TIMEOUT_S:g} s"
        except OSError as error:
            return f"accepts no connections ({error.strerror or error})"
        self._settle(tenant)
        return fault
