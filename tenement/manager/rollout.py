"""Carries rollouts out: see tenement.rollout for what happens when, and why it can go on after a crash."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

from tenement.config import Service
from tenement.errors import Conflict, Disabled, NotFound, TenementError
from tenement.lifecycle import AWAKE, State
from tenement.manager import snapshots
from tenement.manager.bus_service import TENANT, Method, arguments
from tenement.manager.last_line import last_line
from tenement.manager.stand_ins import StandIns
from tenement.manager.supervisor import ADOPTION_GRACE_S, Supervisor, Tenant
from tenement.manager.units import UnitFailed, Units
from tenement.names import TenantName, check_service
from tenement.releases import ReleaseStore, Standing, check_directory, check_release, has_releases
from tenement.rollout import ACTIVE, Candidate, Kind, Phase, Rollout, Step, canary_count
from tenement.systemd import Systemd, SystemdError
from tenement.unit_properties import pre_release_unit

log = logging.getLogger(__name__)

BATCH: Final = 10
_BATCH_MAX: Final = 1000
_SLEEPERS_AT_ONCE: Final = 500
_STOP_MARGIN_S: Final = 30.0
_NO_UNIT: Final = frozenset({State.ASLEEP, State.DISABLED, State.FAILED})


class Rollouts:
    """Every service's rollout, one at most at a time for each."""

    def __init__(
        self,
        supervisor: Supervisor,
        units: Units,
        systemd: Systemd,
        version: int,
        stand_ins: StandIns,
        store: ReleaseStore,
        transaction: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._supervisor = supervisor
        self._units = units
        self._systemd = systemd
        self._version = version
        self._stand_ins = stand_ins
        self._store = store
        self._transaction = transaction
        self._rollouts = {rollout.service: rollout for rollout in store.rollouts()}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._preparing: dict[TenantName, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(2 * (os.cpu_count() or 1))
        supervisor.release_of = store.of
        supervisor.before_lease = self.prepare_new

    async def start(self) -> None:
        """Go on where the last manager ended; call it before anybody can ask for a tenant."""
        moving = {name for rollout in self._rollouts.values() for name in rollout.active}
        for name in await asyncio.to_thread(snapshots.existing):
            if name not in moving:
                # Either a move had just ended, or a first start was in the middle of `pre_release`.
                standing = self._store.standing(name)
                fresh = standing is not None and standing.fresh
                await asyncio.to_thread(snapshots.put_back if fresh else snapshots.drop, name)
        for rollout in self._rollouts.values():
            for name in rollout.active:
                tenant = self._supervisor.tenants.get(name)
                if tenant is not None and not _is_untouched(rollout, tenant):
                    self._supervisor.hold(name)
            if rollout.active or rollout.phase is Phase.RUNNING:
                log.info("%s: the rollout of %s goes on", rollout.service, rollout.target)
                # Not before the workers have leased again what they use: requests under way would be cut.
                self._begin(rollout, after_s=ADOPTION_GRACE_S)

    async def close(self) -> None:
        """Stop in the middle; the next manager goes on."""
        tasks = [*self._tasks.values(), *self._preparing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def created(self, name: TenantName) -> None:
        """A tenant was made: it begins on its service's release."""
        current, _ = self._store.current(name.service)
        if current is not None and self._store.of(name) is None:
            self._store.put(name, current, None, fresh=True)

    def prepare_new(self, service: Service, name: TenantName) -> None:
        """Have `pre_release` run before the first start of a tenant that was made since the last rollout.

        Callers wait meanwhile. If it fails they are told so, and the next one makes it run again.
        """
        standing, tenant = self._store.standing(name), self._supervisor.get(name)
        if standing is None or not standing.fresh or tenant.life.held:
            return
        if not service.pre_release:
            self._store.put(name, standing.release, standing.previous, pinned=standing.pinned)
        else:
            self._supervisor.hold(name)
            self._preparing[name] = asyncio.create_task(self._prepare_new(service, tenant, standing))

    async def _prepare_new(self, service: Service, tenant: Tenant, standing: Standing) -> None:
        name, reason = tenant.name, None
        try:
            async with self._turns:
                await self._supervisor.empty(tenant, "is prepared for its first start")
                # There is a copy if an earlier try was interrupted.
                await asyncio.to_thread(snapshots.put_back, name)
                await self._prepare(service, name, standing.release)
            with self._transaction():
                self._store.set_prepared(name, standing.release, True)
                self._store.put(name, standing.release, standing.previous, pinned=standing.pinned)
            await asyncio.to_thread(snapshots.drop, name)
        except (TenementError, OSError) as error:
            reason = str(error)
            log.warning("%s", await self._explained(name, error), extra=_journal(name))
            await asyncio.to_thread(snapshots.put_back, name)
        del self._preparing[name]
        self._supervisor.unhold(tenant, reason)

    def changed(self, tenant: Tenant) -> None:
        """A tenant is in another state."""
        if tenant.state is State.GONE:
            self._store.forget(tenant.name)

    def describe(self, name: TenantName) -> dict[str, Any]:
        """What `ten status` says of a tenant's release."""
        standing = self._store.standing(name)
        if standing is None:
            return {"release": None, "previous_release": None, "pinned": False}
        return {
            "release": standing.release,
            "previous_release": standing.previous,
            "pinned": standing.pinned,
        }

    # What operators ask

    def roll_out(self, selector: str, release: str, canary: str, batch: int, pause_after: str) -> None:
        """Begin to move a service, or pin one tenant, to a release.

        Raises NotFound for the service or tenant, InvalidName, and Conflict while another rollout of the
        service is open, if its settings name no release, or if the release's directory or program is missing.
        """
        pinned = TenantName.parse(selector) if ":" in selector else None
        service = self._service(pinned.service if pinned else check_service(selector))
        check_release(release)
        if pinned is not None:
            self._supervisor.get(pinned)
        if not has_releases(service):
            raise Conflict(
                f"{service.name}: its settings name no release. Write {{release}} in workdir or command."
            )
        self._check_closed(service.name)
        check_directory(service, release)
        former, _ = self._store.current(service.name)
        rollout = Rollout(
            service.name,
            Kind.PIN if pinned else Kind.ROLLOUT,
            release,
            former,
            min(max(1, batch or BATCH), _BATCH_MAX),
            _pauses(pause_after),
            time.time(),
        )
        candidates = self._candidates(rollout, pinned)
        rollout.add(candidates, canary_count(canary or "1", len(candidates)))
        self._keep_new(rollout)

    def roll_back(self, service_name: str) -> None:
        """Begin to move a service's tenants back to the release that each was on before.

        Their data stays as it is, and `pre_release` does not run. Raises NotFound, Conflict.
        """
        service = self._service(check_service(service_name))
        self._check_closed(service.name)
        current, previous = self._store.current(service.name)
        last = self._rollouts.get(service.name)
        unfinished = last is not None and last.phase is Phase.ABORTED and last.kind is Kind.ROLLOUT
        leaving = last.target if last is not None and unfinished else current
        target = current if unfinished else previous
        if leaving is None or target is None or leaving == target:
            raise Conflict(f"{service.name}: there is no earlier release to go back to")
        check_directory(service, target)
        rollout = Rollout(service.name, Kind.ROLLBACK, target, leaving, BATCH, False, time.time())
        rollout.add(self._candidates(rollout, None), 1)
        self._keep_new(rollout)

    def resume(self, service: str) -> None:
        """Go on with a rollout that paused or stopped. Raises NotFound, Conflict."""
        rollout = self._rollout(service)
        rollout.resume()
        with self._transaction():
            self._store.save(rollout)
            for name in rollout.stops:
                self._store.save_stop(rollout, name)
        self._begin(rollout)

    def abort(self, service: str) -> None:
        """End a rollout: no other tenant moves; those that did stay. Raises NotFound, Conflict."""
        rollout = self._rollout(service)
        rollout.abort()
        self._store.save(rollout)
        log.info("%s: the rollout of %s was aborted", service, rollout.target)

    def unpin(self, service: str, id_: str) -> None:
        """Let the next rollout move a pinned tenant again. Raises NotFound."""
        name = TenantName(service, id_)
        self._supervisor.get(name)
        standing = self._store.standing(name)
        if standing is not None:
            self._store.put(name, standing.release, standing.previous)

    def status(self, service: str) -> str:
        """The last rollout of a service as a JSON object. Raises NotFound."""
        rollout = self._rollout(service)
        releases: dict[str, int] = {}
        for name in self._supervisor.tenants:
            if name.service == service:
                release = self._store.of(name) or ""
                releases[release] = releases.get(release, 0) + 1
        return json.dumps(
            {
                "service": service,
                "kind": rollout.kind,
                "to": rollout.target,
                "from": rollout.former,
                "state": rollout.phase,
                "reason": rollout.reason,
                "total": len(rollout.stops),
                "counts": rollout.counts(),
                "left_s": rollout.left_s(),
                "started": rollout.started_at,
                "worked_s": round(rollout.worked_s, 3),
                "releases": releases,
                "failed": {
                    str(name): stop.reason for name, stop in rollout.stops.items() if stop.step is Step.FAILED
                },
            }
        )

    # Private: planning

    def _service(self, name: str) -> Service:
        try:
            return self._supervisor.config.services[name]
        except KeyError:
            raise NotFound(f"{name}: no such service") from None

    def _rollout(self, service: str) -> Rollout:
        try:
            return self._rollouts[check_service(service)]
        except KeyError:
            raise NotFound(f"{service}: was never rolled out") from None

    def _check_closed(self, service: str) -> None:
        last = self._rollouts.get(service)
        if last is not None and (last.open or service in self._tasks):
            raise Conflict(
                f"{service}: a rollout to {last.target} is {last.phase} already. "
                f"See 'ten rollout status {service}'; 'ten rollout abort {service}' ends it."
            )

    def _candidates(self, rollout: Rollout, only: TenantName | None) -> list[Candidate]:
        """The tenants that the rollout has to move."""
        found = []
        for name, tenant in self._supervisor.tenants.items():
            standing = self._store.standing(name)
            if name.service != rollout.service or (only is not None and name != only):
                continue
            match rollout.kind:
                case Kind.ROLLOUT:
                    wanted = standing is None or (standing.release != rollout.target and not standing.pinned)
                case Kind.ROLLBACK:
                    wanted = (
                        standing is not None and standing.release == rollout.former and not standing.pinned
                    )
                case Kind.PIN:
                    wanted = True
            if wanted:
                release = standing.release if standing else None
                awake = tenant.state in AWAKE
                found.append(Candidate(name, release, awake, tenant.last_used_at or 0.0))
        return found

    def _keep_new(self, rollout: Rollout) -> None:
        if rollout.kind is Kind.ROLLBACK:
            for name, stop in rollout.stops.items():
                standing = self._store.standing(name)
                stop.target = (standing.previous if standing else None) or rollout.target
        with self._transaction():
            self._store.begin(rollout)
        self._rollouts[rollout.service] = rollout
        log.info(
            "%s: %s to %s begins: %d tenants",
            rollout.service,
            rollout.kind,
            rollout.target,
            len(rollout.stops),
        )
        self._begin(rollout)

    # Private: carrying out

    def _begin(self, rollout: Rollout, after_s: float = 0.0) -> None:
        previous = self._tasks.get(rollout.service)
        task = asyncio.create_task(self._run(rollout, previous, after_s))
        self._tasks[rollout.service] = task
        task.add_done_callback(lambda done: self._ended(rollout, done))

    def _ended(self, rollout: Rollout, task: asyncio.Task[None]) -> None:
        if self._tasks.get(rollout.service) is task:
            del self._tasks[rollout.service]
        if not task.cancelled() and (error := task.exception()):
            log.error("%s: the rollout ended inside the manager", rollout.service, exc_info=error)

    async def _run(self, rollout: Rollout, previous: asyncio.Task[None] | None, after_s: float) -> None:
        if previous is not None:
            await asyncio.gather(previous, return_exceptions=True)
        await asyncio.sleep(after_s)
        while True:
            began = time.monotonic()
            batch = rollout.active
            if not batch:
                if not any(stop.canary and stop.step is Step.WAITING for stop in rollout.stops.values()):
                    self._move_sleepers(rollout)
                batch = rollout.next_batch()
            async with asyncio.TaskGroup() as group:
                for name in batch:
                    group.create_task(self._move(rollout, name))
            rollout.worked_s += time.monotonic() - began
            self._take_in_new(rollout)
            rollout.batch_ended()
            self._store.save(rollout)
            if rollout.phase is not Phase.RUNNING:
                break
        self._finish(rollout)

    def _finish(self, rollout: Rollout) -> None:
        level = logging.WARNING if rollout.phase is Phase.STOPPED else logging.INFO
        why = f": {rollout.reason}" if rollout.reason else ""
        log.log(
            level, "%s: %s to %s is %s%s", rollout.service, rollout.kind, rollout.target, rollout.phase, why
        )
        if rollout.phase is not Phase.DONE or rollout.kind is Kind.PIN:
            return
        current, _ = self._store.current(rollout.service)
        if current != rollout.target:
            self._store.set_current(rollout.service, rollout.target, current)

    def _take_in_new(self, rollout: Rollout) -> None:
        """Tenants that were made meanwhile move too."""
        if rollout.kind is Kind.ROLLOUT and rollout.phase is Phase.RUNNING:
            for name in rollout.add(self._candidates(rollout, None), 0):
                self._store.save_stop(rollout, name)

    def _move_sleepers(self, rollout: Rollout) -> None:
        """Note the release of tenants that sleep: they wake on it. All at once, as nothing is waited for."""
        service = self._supervisor.config.services.get(rollout.service)
        if rollout.phase is not Phase.RUNNING or service is None or self._prepares(rollout, service):
            return
        if rollout.pause_after_canary and any(stop.canary for stop in rollout.stops.values()):
            # It pauses first.
            return
        sleepers = [
            name
            for name, stop in rollout.stops.items()
            if stop.step is Step.WAITING and not stop.canary and self._sleeps(name)
        ]
        with self._transaction():
            for name in sleepers[:_SLEEPERS_AT_ONCE]:
                self._put(rollout, name)
                self._step(rollout, name, Step.DONE)

    def _sleeps(self, name: TenantName) -> bool:
        tenant = self._supervisor.tenants.get(name)
        return tenant is not None and tenant.state in _NO_UNIT and not tenant.life.callers

    @staticmethod
    def _prepares(rollout: Rollout, service: Service) -> bool:
        return bool(service.pre_release) and rollout.kind is not Kind.ROLLBACK

    async def _move(self, rollout: Rollout, name: TenantName) -> None:
        """Move one tenant, or put it back; its stop tells how it went."""
        tenant = self._supervisor.tenants.get(name)
        if tenant is None:
            rollout.move(name, Step.SKIPPED, "removed meanwhile")
            return
        resumed = rollout.stops[name].step in ACTIVE
        try:
            if (preparing := self._preparing.get(name)) is not None:
                await asyncio.wait([preparing])
            await self._stand_ins.change_ended(name)
            if not resumed and self._stand_ins.wanted(tenant):
                await self._move_covered(rollout, tenant)
                return
            if not tenant.life.held:
                self._supervisor.hold(name)
            await self._steps(rollout, tenant, resumed=resumed)
        except asyncio.CancelledError:
            # The manager ends: nobody may see the tenant as it is now, so it stays held.
            raise
        except NotFound:
            rollout.move(name, Step.SKIPPED, "removed meanwhile")
        except Exception as error:
            log.exception("%s: the rollout failed inside the manager", name)
            try:
                await self._revert(rollout, tenant, f"internal error: {error}")
            except Exception:
                log.exception("%s: could not be put back", name)
        self._supervisor.unhold(tenant)

    async def _move_covered(self, rollout: Rollout, tenant: Tenant) -> None:
        """Move a tenant that its stand-in covers; without one it is not touched."""
        moving = False
        try:
            async with self._stand_ins.covering(tenant, rollout.stops[tenant.name].target):
                moving = True
                await self._steps(rollout, tenant, resumed=False)
        except TenementError as error:
            if moving or isinstance(error, NotFound):
                raise
            log.warning("%s: stays on its release: %s", tenant.name, error, extra=_journal(tenant.name))
            self._step(rollout, tenant.name, Step.FAILED, str(error))

    async def _steps(self, rollout: Rollout, tenant: Tenant, *, resumed: bool) -> None:
        name, stop = tenant.name, rollout.stops[tenant.name]
        if stop.step is Step.REVERTING:
            await self._revert(rollout, tenant, stop.reason or "")
            return
        try:
            if stop.step is not Step.STARTING:
                if not resumed:
                    stop.start = stop.canary or tenant.state in AWAKE or bool(tenant.life.callers)
                self._step(rollout, name, Step.PREPARING)
                await self._supervisor.empty(tenant, f"moves to release {stop.target}")
                await asyncio.to_thread(snapshots.put_back if resumed else snapshots.drop, name)
                service = self._supervisor.service(name)
                if self._prepares(rollout, service) and not self._store.is_prepared(name, stop.target):
                    await self._prepare(service, name, stop.target)
                with self._transaction():
                    self._put(rollout, name)
                    if service.pre_release:
                        self._store.set_prepared(name, stop.target, True)
                    self._step(rollout, name, Step.STARTING)
            await self._started(tenant, wanted=stop.start)
        except (TenementError, OSError) as error:
            if isinstance(error, NotFound):
                raise
            await self._revert(rollout, tenant, await self._explained(name, error))
            return
        self._step(rollout, name, Step.DONE)
        await asyncio.to_thread(snapshots.drop, name)

    async def _revert(self, rollout: Rollout, tenant: Tenant, reason: str) -> None:
        """Put a tenant back on the release that it came from, with the data from then."""
        name, stop = tenant.name, rollout.stops[tenant.name]
        log.warning("%s: goes back to release %s: %s", name, stop.former, reason, extra=_journal(name))
        self._step(rollout, name, Step.REVERTING, reason)
        try:
            await self._supervisor.empty(tenant, f"goes back to release {stop.former}")
            if await asyncio.to_thread(snapshots.put_back, name):
                self._store.set_prepared(name, stop.target, False)
        except TenementError as error:
            reason = f"{reason}; {error}"
        with self._transaction():
            if stop.former is None:
                self._store.unput(name)
            elif self._store.of(name) != stop.former:
                self._store.put(name, stop.former, None)
            self._step(rollout, name, Step.FAILED, reason)
        try:
            await self._started(tenant, wanted=stop.start and stop.former is not None)
        except TenementError as error:
            log.warning("%s: does not start on release %s either: %s", name, stop.former, error)

    async def _started(self, tenant: Tenant, *, wanted: bool) -> None:
        """Start a held tenant and wait until it is healthy. Raises StartFailed, StartTimeout."""
        if wanted and tenant.state is not State.DISABLED:
            try:
                await self._supervisor.lease(tenant.name, "", through=True)
            except Disabled:
                # By the operator, in between.
                return

    async def _prepare(self, service: Service, name: TenantName, release: str) -> None:
        """Copy the tenant's data and run `pre_release`. Raises TenementError."""
        await asyncio.to_thread(snapshots.take, name)
        await self._units.ensure_slice(service)
        properties = pre_release_unit(service, name, release, self._version)
        try:
            job = await self._systemd.start_transient(name.unit, properties)
            result = await job.result(service.pre_release_timeout_s + _STOP_MARGIN_S)
        except (SystemdError, TimeoutError) as error:
            await self._units.stop(name, service)
            raise UnitFailed(f"pre_release could not be run: {error}") from error
        finally:
            await self._units.forget_failure(name)
        if result != "done":
            late = f" (it may take {service.pre_release_timeout_s:g} s)" if result == "timeout" else ""
            raise UnitFailed(f"pre_release failed{late}")

    def _put(self, rollout: Rollout, name: TenantName) -> None:
        stop = rollout.stops[name]
        pinned = rollout.kind is Kind.PIN
        previous = stop.former if stop.former != stop.target else self._previous(name)
        self._store.put(name, stop.target, previous, pinned=pinned)

    def _previous(self, name: TenantName) -> str | None:
        standing = self._store.standing(name)
        return standing.previous if standing else None

    def _step(self, rollout: Rollout, name: TenantName, step: Step, reason: str | None = None) -> None:
        rollout.move(name, step, reason)
        self._store.save_stop(rollout, name)

    @staticmethod
    async def _explained(name: TenantName, error: Exception) -> str:
        text = str(error)
        line = await last_line(name, None) if isinstance(error, TenementError) else None
        text = text if str(name) in text else f"{name}: {text}"
        return f"{text} (last line: {line})" if line and "last line" not in text else text


def _is_untouched(rollout: Rollout, tenant: Tenant) -> bool:
    """Whether a tenant that was about to move still runs as before; `pre_release` is never seen active."""
    return rollout.stops[tenant.name].step is Step.PREPARING and tenant.facts.active == "active"


def _pauses(pause_after: str) -> bool:
    if pause_after not in ("", "canary"):
        raise Conflict(f"a rollout can pause after canary, not after {pause_after!r}")
    return bool(pause_after)


def _journal(name: TenantName) -> dict[str, str]:
    """Journal fields of a message about a tenant: `ten logs` shows it among its own."""
    return {"TENANT": str(name), "OBJECT_SYSTEMD_UNIT": name.unit}


def methods(rollouts: Rollouts) -> list[Method]:
    """The bus interface of rollouts."""

    async def roll_out(
        _: str, selector: str, release: str, canary: str, batch: int, pause_after: str
    ) -> list[Any]:
        rollouts.roll_out(selector, release, canary, batch, pause_after)
        return []

    async def roll_back(_: str, service: str) -> list[Any]:
        rollouts.roll_back(service)
        return []

    async def resume(_: str, service: str) -> list[Any]:
        rollouts.resume(service)
        return []

    async def abort(_: str, service: str) -> list[Any]:
        rollouts.abort(service)
        return []

    async def unpin(_: str, service: str, id_: str) -> list[Any]:
        rollouts.unpin(service, id_)
        return []

    async def status(_: str, service: str) -> list[Any]:
        return [rollouts.status(service)]

    one = arguments("s service")
    begin = arguments("s selector, s release, s canary, u batch, s pause_after")
    return [
        Method("RollOut", begin, (), roll_out),
        Method("RollBack", one, (), roll_back),
        Method("ResumeRollout", one, (), resume),
        Method("AbortRollout", one, (), abort),
        Method("Unpin", TENANT, (), unpin),
        Method("RolloutStatus", one, arguments("s status"), status),
    ]
