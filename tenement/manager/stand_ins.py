"""Replaces a tenant's unit without a pause: a second unit serves meanwhile (see `overlap`).

    stand-in starts -> tenant held, its callers get the stand-in -> the unit drains, stops, starts anew
    -> tenant released, its callers get the new unit -> stand-in drains, stops

The tenant's own unit keeps its name, and is looked after as ever; the stand-in lives as long as the change.
If it does not get ready, nothing has happened to the tenant. If it dies later, callers wait as they would
without one. A manager that starts and finds one lets it serve those who still use it for as long as that can
take, and then stops it; meanwhile the tenant is changed without.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from tenement.errors import Conflict, StartFailed, StartTimeout, TenementError
from tenement.lifecycle import Died, State
from tenement.manager.last_line import last_line
from tenement.manager.supervisor import CUT_MARGIN_S, Supervisor, Tenant
from tenement.manager.units import Instance, Units, UnitTimeout
from tenement.manager.verdict import Facts, judge
from tenement.names import StandIn, TenantName

log = logging.getLogger(__name__)


class StandIns:
    """The stand-ins that there are: at most one of a tenant."""

    def __init__(self, supervisor: Supervisor, units: Units) -> None:
        self._supervisor = supervisor
        self._units = units
        self._changes: dict[TenantName, asyncio.Event] = {}
        self._watched: dict[str, tuple[Facts, asyncio.Future[str]]] = {}
        self._leftovers: dict[TenantName, asyncio.Task[None]] = {}
        # Their starts have no place in the supervisor's queue, and would all finish late together.
        self._turns = asyncio.Semaphore(2 * (os.cpu_count() or 1))
        supervisor.other_unit_changed = self._unit_changed

    def wanted(self, tenant: Tenant) -> bool:
        """Whether the tenant is one to be replaced so: it runs, and its service says `overlap`."""
        service = self._supervisor.config.services.get(tenant.name.service)
        if service is None or not service.overlap or tenant.name in self._leftovers:
            return False
        return tenant.state in (State.RUNNING, State.FROZEN)

    async def change_ended(self, name: TenantName) -> None:
        """Wait until nobody changes the tenant with the help of a stand-in."""
        while (ended := self._changes.get(name)) is not None:
            await ended.wait()

    @asynccontextmanager
    async def covering(self, tenant: Tenant, release: str) -> AsyncIterator[None]:
        """Have a stand-in on `release` serve while the body replaces the tenant's unit; it holds the tenant.

        Raises Conflict if the tenant is being changed, NotFound if it is removed, and StartFailed,
        StartTimeout or Overloaded if the stand-in does not get ready. If this is cancelled, the tenant stays
        held, and the stand-in is left to the next manager.
        """
        if tenant.name in self._changes:
            raise Conflict(f"{tenant.name}: is being changed already", tenant=str(tenant.name))
        ended = self._changes[tenant.name] = asyncio.Event()
        name = StandIn(tenant.name.service, tenant.name.id)
        died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._watched[name.unit] = Facts(), died
        try:
            instance = await self._start(tenant, name, release)
            try:
                self._supervisor.hold(tenant.name)
            except TenementError:
                await self._stop(instance)
                raise
            self._supervisor.cover(tenant, instance.address)
            died.add_done_callback(lambda death: self._died(tenant, death))
            try:
                yield
            except Exception:
                await self._uncover(tenant, instance)
                raise
            await self._uncover(tenant, instance)
        finally:
            del self._watched[name.unit]
            died.cancel()
            del self._changes[tenant.name]
            ended.set()

    async def restart(self, tenant: Tenant) -> None:
        """Restart a tenant without a pause. Raises Conflict, StartFailed, StartTimeout."""
        async with self.covering(tenant, self._supervisor.release_for_start(tenant.name)):
            await self._supervisor.empty(tenant, "restarted by the operator")
            await self._supervisor.lease(tenant.name, "", through=True)

    def adopt(self, unit: str) -> None:
        """A unit was found at the start of the manager: if it is a stand-in, it is stopped in time."""
        name = StandIn.parse_unit(unit)
        if name is not None:
            plain = TenantName(name.service, name.id)
            self._leftovers[plain] = asyncio.create_task(self._retire(plain, name))

    async def close(self) -> None:
        """Leave those that there are to the next manager."""
        for task in self._leftovers.values():
            task.cancel()
        await asyncio.gather(*self._leftovers.values(), return_exceptions=True)

    # Private

    async def _start(self, tenant: Tenant, name: StandIn, release: str) -> Instance:
        service = self._supervisor.service(tenant.name)
        async with self._turns:
            await self._supervisor.before_start(service, tenant.name)
            host = self._supervisor.host(tenant.name)
            instance = self._units.instance(name, service, 0, host, armed=False, release=release)
            try:
                await self._ready(instance)
            except (TenementError, OSError) as error:
                await self._stop(instance)
                facts, _ = self._watched[name.unit]
                raise await _explained(name, facts.invocation_id(), error) from error
        return instance

    async def _ready(self, instance: Instance) -> None:
        """Start the stand-in, and wait until it is ready or dead."""
        facts, died = self._watched[instance.name.unit]
        start = asyncio.ensure_future(self._units.start(instance, facts))
        try:
            either: set[asyncio.Future[Any]] = {start, died}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not start.done():
                raise StartFailed(died.result())
            start.result()
        finally:
            start.cancel()
            await asyncio.gather(start, return_exceptions=True)

    def _unit_changed(self, unit: str, changed: dict[str, Any]) -> None:
        if unit not in self._watched:
            return
        facts, died = self._watched[unit]
        facts.update(changed)
        events = judge(State.STARTING, facts, 0.0) if "ActiveState" in changed else []
        if any(isinstance(event, Died) for event in events) and not died.done():
            died.set_result(facts.reason())

    def _died(self, tenant: Tenant, death: asyncio.Future[str]) -> None:
        """A stand-in that serves has died: its callers wait for the tenant itself."""
        if not death.cancelled() and tenant.life.cover is not None:
            log.warning("%s: its stand-in died: %s", tenant.name, death.result())
            self._supervisor.cover(tenant, None)

    async def _uncover(self, tenant: Tenant, instance: Instance) -> None:
        """Let callers have the tenant again, and the stand-in end when nobody uses it any more."""
        self._supervisor.unhold(tenant)
        with suppress(TimeoutError):
            async with asyncio.timeout(instance.service.drain_timeout_s + CUT_MARGIN_S):
                await tenant.uncovered.wait()
        await self._stop(instance)

    async def _stop(self, instance: Instance) -> None:
        await self._stop_unit(instance.name)
        self._units.clean_up(instance)

    async def _stop_unit(self, name: TenantName) -> None:
        service = self._supervisor.config.services.get(name.service)
        try:
            await self._units.stop(name, service)
        except TenementError as error:
            log.warning("%s: its stand-in %s is not stopped: %s", name, name.unit, error)
        await self._units.forget_failure(name)

    async def _retire(self, plain: TenantName, name: StandIn) -> None:
        """Stop what a manager that was killed left behind.

        Workers use it until they have a lease on the tenant's own unit, which may have to start, and then
        finish what is under way on it.
        """
        service = self._supervisor.config.services.get(plain.service)
        try:
            if service is not None and plain in self._supervisor.tenants:
                await asyncio.sleep(service.startup_timeout_s + service.drain_timeout_s)
            await self._stop_unit(name)
            self._units.remove_files(name)
        finally:
            del self._leftovers[plain]


async def _explained(name: StandIn, invocation: str | None, error: Exception) -> TenementError:
    """The same for people, with the last that the stand-in printed."""
    text, line = str(error), await last_line(name, invocation)
    text = text if text.startswith(f"{name}: ") else f"{name}: {text}"
    if isinstance(error, UnitTimeout):
        return StartTimeout(text, tenant=str(name))
    text += f" (last line: {line})" if line else ""
    return StartFailed(text, tenant=str(name), last_line=line or "")
