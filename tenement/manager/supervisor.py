"""Drives every tenant's state machine: feeds it what happens, carries out what it asks for.

All changes happen on the event loop, in `Supervisor._feed`, without an await in between: whoever calls sees
the tenant before or after an event, never in the middle of one.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from tenement import lifecycle
from tenement.config import Config, Service
from tenement.errors import Conflict, Disabled, NotFound, StartFailed, StartTimeout, TenementError
from tenement.lifecycle import (
    CancelOperation,
    Denial,
    Deny,
    Enqueue,
    Goal,
    Grant,
    Lifecycle,
    Operate,
    Policy,
    Revoke,
    State,
    Verb,
)
from tenement.manager.starts import StartQueue
from tenement.manager.units import Instance, UnitDied, Units, UnitTimeout
from tenement.manager.verdict import Facts, judge
from tenement.names import TenantName
from tenement.releases import has_releases
from tenement.systemd import UNIT

log = logging.getLogger(__name__)

ADOPTION_GRACE_S: Final = 2.0
"""How long adopted tenants count as leased, so that the workers can lease again what they use."""

_SETTLED_WITHOUT_UNIT: Final = frozenset(
    {State.ASLEEP, State.QUEUED, State.FAILED, State.DISABLED, State.GONE}
)
CUT_MARGIN_S: Final = 1.0
"""How long after drain_timeout an app is told to end: the workers answer those whom they cut off then."""

_LEASE_MARGIN_S: Final = 1.0
# Enough for a worker to write a close frame before the app hears of its stop.
_UPGRADE_NOTICE_S: Final = 0.1


class Listener(Protocol):
    """Who is told about what happens to tenants."""

    def revoked(self, name: TenantName, generation: int, reason: str) -> None:
        """No new request may use leases of this generation."""

    def changed(self, tenant: "Tenant", before: State) -> None:
        """The tenant is in another state now."""

    def idle(self, tenant: "Tenant") -> None:
        """Nobody uses or waits for the running tenant any more."""

    def may_sleep(self, tenant: "Tenant") -> bool:
        """Whether the tenant may be put to sleep for being idle."""


@dataclass(slots=True, eq=False)
class Tenant:
    """One registered tenant at run time."""

    name: TenantName
    life: Lifecycle
    weight: int = 100
    created_at: float = 0.0
    last_used_at: float | None = None
    facts: Facts = field(default_factory=Facts)
    instance: Instance | None = None
    operation: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    health_failures: int = 0
    # Whether it fails its health checks or waits to be started again after a failure.
    sick: bool = False
    # Whether it was up since it last fell asleep.
    served: bool = False
    # Set while no worker has a lease on its stand-in.
    uncovered: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def state(self) -> State:
        """Where it is in its life."""
        return self.life.state


class Supervisor:
    """All tenants of this host."""

    def __init__(self, units: Units, config: Config, listener: Listener, concurrent_starts: int) -> None:
        self.config = config
        self.tenants: dict[TenantName, Tenant] = {}
        self.release_of: Callable[[TenantName], str | None] = lambda _: None
        self.before_lease: Callable[[Service, TenantName], None] = lambda service, name: None
        self.before_start: Callable[[Service, TenantName], Awaitable[None]] = _nothing_before
        self.other_unit_changed: Callable[[str, dict[str, Any]], None] = lambda unit, changed: None
        self._units = units
        self._listener = listener
        self._starts = StartQueue(concurrent_starts, self._slot_granted)
        self._tickets: dict[int, asyncio.Future[tuple[str, int]]] = {}
        self._leavers: dict[TenantName, list[asyncio.Future[None]]] = {}
        self._next_ticket = 0
        # One at a time: reclaiming is disk work, and nobody waits for it.
        self._reclaims = ThreadPoolExecutor(1, "reclaim")
        # Generations go on growing over restarts of the manager, so that a worker's old lease is never taken
        # for a new one.
        self._first_generation = time.time_ns() // 1_000_000

    # Questions

    def get(self, name: TenantName) -> Tenant:
        """The tenant of that name. Raises NotFound."""
        try:
            return self.tenants[name]
        except KeyError:
            raise NotFound(f"{name}: no such tenant. See 'ten ps'.", tenant=str(name)) from None

    def service(self, name: TenantName) -> Service:
        """The service of a tenant. Raises NotFound if the configuration no longer has it."""
        try:
            return self.config.services[name.service]
        except KeyError:
            raise NotFound(
                f"{name}: there is no [service.{name.service}] in the configuration any more",
                tenant=str(name),
            ) from None

    def release_for_start(self, name: TenantName) -> str:
        """The release that a tenant starts on; "" if its service has none. Raises StartFailed."""
        release = self.release_of(name)
        if release is None and has_releases(self.service(name)):
            raise StartFailed(
                f"{name.service} has no release yet. Run 'ten rollout {name.service} --to RELEASE'.",
                tenant=str(name),
            )
        return release or ""

    def host(self, name: TenantName) -> str:
        """The tenant's public host name."""
        return name.host(self.config.settings.domains[0])

    # Tenants come and go

    def add(
        self, name: TenantName, *, enabled: bool, weight: int, created_at: float, last_used_at: float | None
    ) -> Tenant:
        """Take a registered tenant under supervision; it is asleep, or disabled."""
        life = Lifecycle(self._policy(name), generation=self._first_generation, since=self._now())
        if not enabled:
            life.state = State.DISABLED
        tenant = Tenant(name, life, weight, created_at, last_used_at)
        self.tenants[name] = tenant
        return tenant

    def adopt(self, tenant: Tenant, state: State, instance: Instance, facts: Facts) -> None:
        """A unit of the tenant was found at the start of the manager."""
        tenant.instance, tenant.facts = instance, facts
        facts.invocation = facts.invocation_id()
        if instance.launch.port is not None:
            self._units.ports.adopt(instance.launch.port)
        self._feed(tenant, lifecycle.Adopt(state, instance.address))
        if tenant.life.leases:
            asyncio.get_running_loop().call_later(
                ADOPTION_GRACE_S,
                self._feed,
                tenant,
                lifecycle.Release(lifecycle.ADOPTION, tenant.life.generation),
            )

    def configure(self, config: Config) -> None:
        """Take on another configuration: running tenants keep what they have until their next start."""
        before, self.config = self.config, config
        for tenant in list(self.tenants.values()):
            name = tenant.name.service
            tenant.life.policy = self._policy(tenant.name)
            if tenant.state is State.ARMED and config.services.get(name) != before.services.get(name):
                self._feed(tenant, lifecycle.Leave(Goal.SLEEP, "configuration changed"))
            self._schedule(tenant)

    def set_concurrent_starts(self, limit: int) -> None:
        """How many tenants may be starting at a time."""
        self._starts.limit = limit

    # What callers want

    async def lease(self, name: TenantName, worker: str, *, through: bool = False) -> tuple[str, int]:
        """Wait until the tenant is ready, starting it if need be; gives its address and generation.

        `worker` holds a lease from then on; "" starts the tenant without one. `through` is for who holds the
        tenant (see `hold`). Raises NotFound, Disabled, StartFailed, StartTimeout.
        """
        tenant = self.get(name)
        service = self.service(name)
        self.before_lease(service, name)
        ticket, future = self._ticket()
        try:
            self._feed(tenant, lifecycle.Lease(ticket, worker, through))
            if future.done():
                return future.result()
            async with asyncio.timeout(service.startup_timeout_s + _LEASE_MARGIN_S):
                return await future
        except TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()
            reason = tenant.life.reason
            if tenant.state is State.BACKOFF:
                raise StartFailed(f"{name}: {reason or 'failed'}", tenant=str(name)) from None
            raise StartTimeout(
                f"{name}: {_lateness(tenant, service)}", tenant=str(name), retry_after_s=1.0
            ) from None
        finally:
            del self._tickets[ticket]
            if ticket in tenant.life.callers:
                self._feed(tenant, lifecycle.Abandon(ticket))

    def release(self, name: TenantName, worker: str, generation: int) -> None:
        """A worker gives its lease back; with generation 0, it waits for none any more."""
        tenant = self.tenants.get(name)
        if tenant is None:
            return
        if generation:
            self._feed(tenant, lifecycle.Release(worker, generation))
            return
        for ticket, who in list(tenant.life.callers.items()):
            if who == worker:
                self._feed(tenant, lifecycle.Abandon(ticket))
                self._tickets[ticket].set_exception(Conflict(f"{name}: the caller waits no longer"))

    def worker_gone(self, worker: str) -> None:
        """A worker left the bus."""
        for tenant in list(self.tenants.values()):
            life = tenant.life
            if worker in life.leases or worker in life.cover_leases or worker in life.callers.values():
                waited = [ticket for ticket, who in life.callers.items() if who == worker]
                self._feed(tenant, lifecycle.WorkerGone(worker))
                for ticket in waited:
                    self._tickets[ticket].set_exception(Conflict(f"{tenant.name}: the caller left the bus"))

    async def leave(self, name: TenantName, goal: Goal, reason: str) -> None:
        """Have the tenant's unit gone, and wait until it is."""
        tenant = self.get(name)
        self._feed(tenant, lifecycle.Leave(goal, reason))
        await self._settled(tenant, self._patience_s(name))
        await self._units.forget_failure(name)

    async def restart(self, name: TenantName) -> None:
        """Stop the tenant once its requests are done, start it again and wait until it is ready."""
        tenant = self.get(name)
        if tenant.state is State.DISABLED:
            raise Disabled(f"{name}: disabled. Enable it with 'ten enable {name}'.", tenant=str(name))
        if tenant.state is State.FAILED:
            tenant.life.retry_at = 0.0
        self._feed(tenant, lifecycle.Leave(Goal.SLEEP, "restarted by the operator"))
        await self._settled(tenant, self._patience_s(name))
        await self.lease(name, "")

    def hold(self, name: TenantName) -> Tenant:
        """Keep all callers waiting while the tenant is changed; none of them sees it half changed.

        They wait as long as any caller does, `startup_timeout`. Raises NotFound, and Conflict if it is held.
        """
        tenant = self.get(name)
        if tenant.life.held:
            raise Conflict(f"{name}: is being changed already", tenant=str(name))
        self._feed(tenant, lifecycle.Hold())
        return tenant

    def cover(self, tenant: Tenant, address: str | None) -> None:
        """Give the callers of a held tenant its stand-in, which is ready at `address`; with None, no more."""
        self._feed(tenant, lifecycle.Cover(address))

    def unhold(self, tenant: Tenant, reason: str | None = None) -> None:
        """The change is over: callers get the tenant, or are told the reason why they do not."""
        self._feed(tenant, lifecycle.Unhold(reason))

    async def empty(self, tenant: Tenant, reason: str) -> None:
        """Have the unit of a held tenant gone, once its requests have ended. Raises Conflict."""
        self._feed(tenant, lifecycle.Leave(Goal.SLEEP, reason))
        await self._settled(tenant, self._patience_s(tenant.name))
        if tenant.state is State.FAILED:
            # A start that failed was on its way out already; who changes the tenant need not wait after it.
            tenant.life.retry_at = 0.0
            self._feed(tenant, lifecycle.Leave(Goal.SLEEP, reason))
        await self._units.forget_failure(tenant.name)

    def enable(self, name: TenantName) -> None:
        """Let a disabled tenant start again, at the next request."""
        self._feed(self.get(name), lifecycle.Enable())

    def prepare(self, tenant: Tenant) -> None:
        """Arm a sleeping tenant."""
        self._feed(tenant, lifecycle.Prepare())

    def expel(self, tenant: Tenant, reason: str) -> None:
        """Put a tenant to sleep without waiting for it."""
        self._feed(tenant, lifecycle.Leave(Goal.SLEEP, reason))

    def fail(self, tenant: Tenant, reason: str) -> None:
        """Stop a tenant as failed without waiting for it; requests in flight may end first."""
        self._feed(tenant, lifecycle.Leave(Goal.FAIL, reason))

    @property
    def quiet(self) -> bool:
        """Whether nothing is starting."""
        return self._starts.quiet

    # What systemd says

    def unit_changed(self, unit: str, interface: str, changed: dict[str, Any]) -> None:
        """A unit's properties changed."""
        name = TenantName.parse_unit(unit)
        tenant = self.tenants.get(name) if name else None
        if tenant is None:
            self.other_unit_changed(unit, changed)
            return
        tenant.facts.update(changed)
        if interface != UNIT or "ActiveState" not in changed:
            return
        service = self.config.services.get(tenant.name.service)
        backoff_max_s = service.backoff_max_ms / 1000 if service else 1.0
        for event in judge(tenant.state, tenant.facts, backoff_max_s):
            before = tenant.state
            self._feed(tenant, event)
            if isinstance(event, lifecycle.Died) and tenant.state is not before:
                level = logging.INFO if event.clean else logging.WARNING
                log.log(level, "%s: %s", tenant.name, event.reason, extra=_journal(tenant))

    async def close(self) -> None:
        """Stop supervising. The units go on; the next manager adopts them."""
        tasks = []
        for tenant in self.tenants.values():
            if tenant.timer is not None:
                tenant.timer.cancel()
            if tenant.operation is not None:
                tenant.operation.cancel()
                tasks.append(tenant.operation)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._reclaims.shutdown(wait=False, cancel_futures=True)
        self._units.close()

    # Private: events in, actions out

    def _feed(self, tenant: Tenant, event: lifecycle.Event) -> None:
        before, was_idle = tenant.state, tenant.life.idle
        for action in tenant.life.step(event, self._now()):
            self._perform(tenant, action)
        self._schedule(tenant)
        if tenant.life.cover_leases:
            tenant.uncovered.clear()
        else:
            tenant.uncovered.set()
        if tenant.state is not before:
            self._state_changed(tenant, before)
        elif tenant.life.idle and not was_idle:
            self._listener.idle(tenant)

    def _perform(self, tenant: Tenant, action: lifecycle.Action) -> None:
        match action:
            case Operate():
                previous = tenant.operation
                tenant.operation = asyncio.create_task(self._operate(tenant, action, previous))
            case CancelOperation():
                if tenant.operation is not None:
                    tenant.operation.cancel()
            case Enqueue():
                self._starts.enqueue(tenant.name)
            case Grant(ticket, address, generation):
                _resolve(self._tickets.get(ticket), (address, generation))
            case Deny():
                _reject(self._tickets.get(action.ticket), _denial(tenant.name, action))
            case Revoke(generation, reason):
                self._listener.revoked(tenant.name, generation, reason)

    def _schedule(self, tenant: Tenant) -> None:
        if tenant.timer is not None:
            tenant.timer.cancel()
            tenant.timer = None
        at = tenant.life.deadline()
        if at is not None:
            loop = asyncio.get_running_loop()
            tenant.timer = loop.call_at(max(at, loop.time()), self._tick, tenant)

    def _tick(self, tenant: Tenant) -> None:
        life, now = tenant.life, self._now()
        if life.sleep_due(now) and not self._listener.may_sleep(tenant):
            # Its clock starts again; whoever is needed least by then goes first.
            life.idle_since = now
        self._feed(tenant, lifecycle.Tick())

    def _state_changed(self, tenant: Tenant, before: State) -> None:
        log.debug("%s: %s -> %s", tenant.name, before, tenant.state)
        if tenant.state not in (State.QUEUED, State.STARTING):
            self._starts.leave(tenant.name)
        if tenant.state in _SETTLED_WITHOUT_UNIT and tenant.instance is not None:
            self._units.clean_up(tenant.instance)
            tenant.instance = None
        if tenant.state in _SETTLED_WITHOUT_UNIT:
            for future in self._leavers.pop(tenant.name, ()):
                if not future.done():
                    future.set_result(None)
        if tenant.state in (State.ASLEEP, State.QUEUED):
            # Whoever waits during a stop goes from there to the queue at once.
            tenant.facts = Facts(previous=tenant.facts.invocation_id() or tenant.facts.previous)
        if tenant.state is State.RUNNING:
            tenant.served = True
        elif tenant.state is State.ASLEEP and tenant.served:
            tenant.last_used_at = time.time()
        if tenant.state is State.GONE:
            del self.tenants[tenant.name]
        self._listener.changed(tenant, before)
        if tenant.state is State.ASLEEP:
            tenant.served = False

    def _slot_granted(self, name: TenantName) -> None:
        # From the loop, not from within another tenant's step.
        asyncio.get_running_loop().call_soon(self._start_turn, name)

    def _start_turn(self, name: TenantName) -> None:
        tenant = self.tenants.get(name)
        if tenant is None or tenant.state is not State.QUEUED:
            self._starts.leave(name)
        else:
            self._feed(tenant, lifecycle.SlotGranted())

    # Private: operations

    async def _operate(self, tenant: Tenant, action: Operate, previous: asyncio.Task[None] | None) -> None:
        """Carry out one operation, after the one that it replaces has ended, and feed its result back."""
        if previous is not None and not previous.done():
            previous.cancel()
            await asyncio.gather(previous, return_exceptions=True)
        event: lifecycle.Event
        try:
            address = await self._carry_out(tenant, action)
            event = lifecycle.Done(action.op, address)
        except UnitDied as error:
            # What became of the unit is in its properties, which may be here already or not; if they never
            # come, this operation has failed.
            event = lifecycle.Failed(action.op, str(error), retry_after_s=self._backoff_s(tenant))
            if judge(tenant.state, tenant.facts, self._backoff_s(tenant)):
                event = lifecycle.Died(tenant.facts.reason(), tenant.facts.restarting)
        except TenementError as error:
            log.warning("%s: %s: %s", tenant.name, action.verb, error, extra=_journal(tenant))
            timed_out = isinstance(error, UnitTimeout)
            event = lifecycle.Failed(action.op, str(error), timed_out, self._backoff_s(tenant))
        except Exception:
            log.exception("%s: %s", tenant.name, action.verb, extra=_journal(tenant))
            event = lifecycle.Failed(
                action.op, "internal error, see the manager's log", False, self._backoff_s(tenant)
            )
        if tenant.operation is asyncio.current_task():
            tenant.operation = None
        self._feed(tenant, event)

    async def _carry_out(self, tenant: Tenant, action: Operate) -> str | None:
        units, name = self._units, tenant.name
        match action.verb:
            case Verb.START | Verb.ARM:
                arm = action.verb is Verb.ARM
                service, release = self.service(name), self.release_for_start(name)
                await self.before_start(service, name)
                instance = units.instance(
                    name,
                    service,
                    action.generation,
                    self.host(name),
                    armed=arm,
                    release=release,
                )
                tenant.instance, tenant.facts = (
                    instance,
                    Facts(previous=tenant.facts.invocation_id() or tenant.facts.previous),
                )
                await (units.arm(instance) if arm else units.start(instance, tenant.facts))
                return instance.address
            case Verb.FIRE | Verb.WATCH:
                assert tenant.instance is not None
                fire = action.verb is Verb.FIRE
                if fire:
                    await self.before_start(self.service(name), name)
                await (units.fire if fire else units.watch)(tenant.instance, tenant.facts)
                return tenant.instance.address
            case Verb.FREEZE:
                await units.freeze(name)
                # Not waited for: a request may thaw the unit meanwhile.
                self._reclaims.submit(units.offer_memory, name)
            case Verb.THAW:
                await units.thaw(name)
            case Verb.STOP:
                await units.stop(name, self.config.services.get(name.service))
        return None

    # Private: small things

    def _ticket(self) -> tuple[int, asyncio.Future[tuple[str, int]]]:
        self._next_ticket += 1
        future: asyncio.Future[tuple[str, int]] = asyncio.get_running_loop().create_future()
        self._tickets[self._next_ticket] = future
        return self._next_ticket, future

    async def _settled(self, tenant: Tenant, timeout_s: float) -> None:
        """Wait until the tenant has no unit. Raises Conflict after `timeout_s` seconds."""
        if tenant.state in _SETTLED_WITHOUT_UNIT:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._leavers.setdefault(tenant.name, []).append(future)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            text = f"{tenant.name}: still {tenant.state} after {timeout_s:g} s"
            raise Conflict(text, tenant=str(tenant.name)) from None

    def _patience_s(self, name: TenantName) -> float:
        """How long a stop may take in all: start under way, drain, stop."""
        service = self.config.services.get(name.service, Service())
        return service.drain_timeout_s + service.stop_timeout_s + 30.0

    def _backoff_s(self, tenant: Tenant) -> float:
        service = self.config.services.get(tenant.name.service)
        return service.backoff_base_ms / 1000 if service else 1.0

    def _policy(self, name: TenantName) -> Policy:
        service = self.config.services.get(name.service)
        if service is None:
            return Policy()
        notice_s = _UPGRADE_NOTICE_S if service.idle_ignores_upgrades else 0.0
        drain_s = service.drain_timeout_s + CUT_MARGIN_S
        return Policy(service.idle_timeout_s, service.freeze_timeout_s, drain_s, notice_s)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


async def _nothing_before(service: Service, name: TenantName) -> None:
    """Every start may go on."""


def _lateness(tenant: Tenant, service: Service) -> str:
    if tenant.state is State.QUEUED:
        return f"waited {service.startup_timeout_s:g} s for its turn to start"
    return f"not ready within {service.startup_timeout_s:g} s"


def _denial(name: TenantName, action: Deny) -> TenementError:
    text, tenant = f"{name}: {action.reason}", str(name)
    match action.denial:
        case Denial.DISABLED:
            return Disabled(text, tenant=tenant)
        case Denial.NOT_FOUND:
            return NotFound(text, tenant=tenant)
        case Denial.START_TIMEOUT:
            return StartTimeout(text, tenant=tenant, retry_after_s=action.retry_after_s)
        case Denial.START_FAILED:
            return StartFailed(text, tenant=tenant, retry_after_s=action.retry_after_s)


def _resolve(future: asyncio.Future[tuple[str, int]] | None, value: tuple[str, int]) -> None:
    if future is not None and not future.done():
        future.set_result(value)


def _reject(future: asyncio.Future[tuple[str, int]] | None, error: TenementError) -> None:
    if future is not None and not future.done():
        future.set_exception(error)


def _journal(tenant: Tenant) -> dict[str, str]:
    """Journal fields of a message about a tenant."""
    return {"TENANT": str(tenant.name), "UNIT": tenant.name.unit}
