"""The leases of a worker: asked for once per tenant, shared by its requests, given back when unused.

A tenant's bytes flow only under a lease (that is what makes sleep safe), so a lease is in one of these
states:

    wanted    requests wait, one call of `Lease` is under way for all of them
    held      new requests use it at once; unused for `linger_s` it is released
    retired   revoked, or its app refused a connection: no new request; released when the last one ends;
              its connections are cut at the drain deadline

A manager that leaves the bus has forgotten every lease. Requests go on meanwhile on what is held; when it is
back each held lease is asked for anew, and usually comes back for the same address. So is each retired one
that requests still use: its tenant may be on its way out, and the new manager has to know that it is in use.
"""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, Protocol

from tenement.errors import StartTimeout, TenementError, Unreachable
from tenement.proxy.lease import Lease, Pool
from tenement.proxy.routes import Tenant

log = logging.getLogger(__name__)

_FIRST_RETRY_S: Final = 0.05
_LAST_RETRY_S: Final = 1.0
_CALL_MARGIN_S: Final = 5.0
_RENEWALS_AT_ONCE: Final = 32


class Bus(Protocol):
    """The manager as leases need it. `lease` raises TenementError, Unreachable if there is no manager."""

    async def lease(self, service: str, id_: str) -> tuple[str, int]:
        """Wait until the tenant is ready; its address and the lease's generation."""

    def release(self, service: str, id_: str, generation: int) -> None:
        """Give a lease back, without waiting. Generation 0 ends a call of `lease` that nobody needs now."""

    def report(self, service: str, id_: str, generation: int, what: str) -> None:
        """Say that an app did not answer ("refused" or "reset"), without waiting."""


class Waiter(Protocol):
    """A request that waits for a lease. One of the two is called, once, unless the wait was given up."""

    def lease_granted(self, lease: "Lease[Any]") -> None:
        """Go on: the lease already counts this request."""

    def lease_failed(self, error: TenementError) -> None:
        """Answer the error."""


class _Wanted:
    """Requests waiting for one tenant."""

    __slots__ = ("abandoned", "revoked", "task", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[Waiter, None] = {}
        self.abandoned = False
        self.revoked: set[int] = set()
        self.task: asyncio.Task[None] | None = None


class Leases[P: Pool]:
    """All leases of the worker."""

    def __init__(
        self,
        bus: Bus,
        make_pool: Callable[[str], P],
        *,
        linger_s: float = 1.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.held: dict[str, Lease[P]] = {}
        self._bus = bus
        self._make_pool = make_pool
        self._linger_s = linger_s
        self._clock = clock
        self._wanted: dict[str, _Wanted] = {}
        self._retired: list[Lease[P]] = []
        self._fixed: dict[str, Lease[P]] = {}
        self._renewal: asyncio.Task[None] | None = None

    @property
    def quiet(self) -> bool:
        """Whether no lease is held, wanted or to be cut."""
        return not (self.held or self._wanted or self._retired)

    def fixed(self, name: str, address: str) -> Lease[P]:
        """A lease for an upstream that is not a tenant and never sleeps: nothing is asked of the manager."""
        lease = self._fixed.get(address)
        if lease is None:
            lease = self._fixed[address] = Lease(
                None, name, address, 0, self._make_pool(address), self._clock()
            )
        return lease

    def wait(self, tenant: Tenant, waiter: Waiter) -> None:
        """Have `waiter` called when the tenant is ready, or cannot be."""
        wanted = self._wanted.get(tenant.name)
        if wanted is None:
            wanted = self._wanted[tenant.name] = _Wanted()
            wanted.task = asyncio.get_running_loop().create_task(self._acquire(tenant, wanted))
        wanted.waiters[waiter] = None

    def give_up(self, tenant: Tenant, waiter: Waiter, *, returns: bool = False) -> None:
        """Forget a waiter whose client is gone, or `returns` for the answer later.

        When it was the last and is gone, the manager need not start the tenant. If the call brings a lease
        all the same, that is released like any unused one.
        """
        wanted = self._wanted.get(tenant.name)
        if wanted is not None and waiter in wanted.waiters:
            del wanted.waiters[waiter]
            if not wanted.waiters and not returns:
                wanted.abandoned = True
                self._bus.release(tenant.service, tenant.id, 0)

    def finish(self, lease: Lease[P], now: float) -> None:
        """End one use of a lease."""
        if lease.leave(now):
            self.forget(lease)

    def forget(self, lease: Lease[P]) -> None:
        """Release a retired lease that nothing uses any more."""
        self._retired.remove(lease)
        if lease.tenant is not None and lease.generation >= 0 and not self._is_shared(lease):
            self._bus.release(lease.tenant.service, lease.tenant.id, lease.generation)

    def revoked(self, service: str, id_: str, generation: int, reason: str) -> None:
        """Follow the signal `Revoked`."""
        name = f"{service}:{id_}"
        log.debug("lease on %s revoked: %s", name, reason)
        wanted = self._wanted.get(name)
        if wanted is not None:
            wanted.revoked.add(generation)
        lease = self.held.get(name)
        if lease is not None and lease.generation == generation:
            self._retire(lease)
        for lease in self._retired:
            if lease.name == name and lease.generation == generation and lease.cut_at is None:
                lease.cut_at = self._clock() + _drain_timeout_s(lease)

    def refused(self, lease: Lease[P], what: str) -> None:
        """As `report`, and use the lease for no other request."""
        self.report(lease, what)
        if lease.tenant is not None and not lease.retired:
            self._retire(lease)

    def report(self, lease: Lease[P], what: str) -> None:
        """Tell the manager that an app did not answer; one that has not renewed the lease yet finds out."""
        if lease.tenant is not None and lease.generation >= 0:
            self._bus.report(lease.tenant.service, lease.tenant.id, lease.generation, what)

    def sweep(self, now: float) -> None:
        """Release what was not used lately, cut what is past its drain deadline."""
        unused = [
            each
            for each in self.held.values()
            if each.active == 0 and now - each.idle_since >= self._linger_s
        ]
        for lease in unused:
            self._retire(lease)
        for lease in list(self._retired):
            if lease.cut_at is not None and lease.cut_at <= now:
                log.info("%s: cutting %d requests at the end of drain_timeout", lease.name, lease.active)
                lease.cut_at = None
                lease.pool.cut()

    def manager_back(self) -> None:
        """Ask anew for every lease that is in use or held: a new manager knows of none."""
        for lease in self._retired:
            lease.generation = -1
        if self._renewal is not None:
            self._renewal.cancel()
        self._renewal = asyncio.get_running_loop().create_task(self._renew_all())

    async def close(self) -> None:
        """Release everything; waiting requests are dropped."""
        tasks = [wanted.task for wanted in self._wanted.values() if wanted.task is not None]
        tasks += [self._renewal] if self._renewal is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for lease in list(self.held.values()):
            self._retire(lease)
        for lease in list(self._retired):
            lease.pool.cut()
            self.forget(lease)
        for lease in self._fixed.values():
            lease.pool.cut()

    # Private

    async def _acquire(self, tenant: Tenant, wanted: _Wanted) -> None:
        """Get a lease for all who wait, or tell them why there is none."""
        try:
            lease = await self._lease(tenant, wanted)
        except TenementError as error:
            del self._wanted[tenant.name]
            for waiter in list(wanted.waiters):
                waiter.lease_failed(error)
            return
        except BaseException:
            del self._wanted[tenant.name]
            raise
        del self._wanted[tenant.name]
        lease.active += len(wanted.waiters)
        for waiter in list(wanted.waiters):
            waiter.lease_granted(lease)

    async def _lease(self, tenant: Tenant, wanted: _Wanted) -> Lease[P]:
        """Call until there is a lease that was not revoked on its way here. A manager that vanishes is waited
        for.
        """
        deadline = self._clock() + tenant.policy.startup_timeout_s + _CALL_MARGIN_S
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                async with asyncio.timeout(max(0.1, deadline - self._clock())):
                    address, generation = await self._bus.lease(tenant.service, tenant.id)
            except TimeoutError:
                raise StartTimeout(
                    f"{tenant.name}: no lease within {tenant.policy.startup_timeout_s:g} s",
                    tenant=tenant.name,
                    after_s=tenant.policy.startup_timeout_s,
                ) from None
            except Unreachable:
                if self._clock() + retry_s >= deadline:
                    raise
                await asyncio.sleep(retry_s)
                retry_s = min(retry_s * 2, _LAST_RETRY_S)
                continue
            except TenementError:
                if wanted.abandoned and wanted.waiters:
                    # Others came after the call was given up.
                    wanted.abandoned = False
                    continue
                raise
            if generation in wanted.revoked:
                self._bus.release(tenant.service, tenant.id, generation)
                continue
            return self._install(tenant, address, generation)

    def _install(self, tenant: Tenant, address: str, generation: int) -> Lease[P]:
        """Hold what the manager granted; the same grant as one retired here for a refused connection is that
        one.
        """
        for lease in self._retired:
            if lease.name == tenant.name and lease.generation == generation and lease.address == address:
                self._retired.remove(lease)
                lease.retired = False
                lease.cut_at = None
                lease.pool.reopen()
                break
        else:
            lease = Lease(tenant, tenant.name, address, generation, self._make_pool(address), self._clock())
        lease.idle_since = self._clock()
        self.held[tenant.name] = lease
        return lease

    def _retire(self, lease: Lease[P]) -> None:
        """Use a lease for no further request, and release it when none is left."""
        if self.held.get(lease.name) is lease:
            del self.held[lease.name]
        lease.retired = True
        lease.pool.close()
        self._retired.append(lease)
        if lease.active == 0:
            self.forget(lease)

    def _is_shared(self, lease: Lease[P]) -> bool:
        """Whether another lease was renewed to the same grant: to the manager they are one."""
        held = self.held.get(lease.name)
        others = self._retired if held is None else [held, *self._retired]
        return any(each.generation == lease.generation and each.name == lease.name for each in others)

    def _is_over(self, lease: Lease[P]) -> bool:
        return lease.retired and lease not in self._retired

    async def _renew_all(self) -> None:
        slots = asyncio.Semaphore(_RENEWALS_AT_ONCE)

        async def renew(lease: Lease[P]) -> None:
            async with slots:
                await self._renew(lease)

        await asyncio.gather(*(renew(lease) for lease in [*self._retired, *self.held.values()]))

    async def _renew(self, lease: Lease[P]) -> None:
        """Hold a lease again after the manager was away; a tenant that moved meanwhile gets its own new
        lease.
        """
        tenant = lease.tenant
        if tenant is None or self._is_over(lease):
            return
        lease.generation = -1  # Unknown to the new manager: never to be released under its old number.
        try:
            async with asyncio.timeout(tenant.policy.startup_timeout_s + _CALL_MARGIN_S):
                address, generation = await self._bus.lease(tenant.service, tenant.id)
        except (Unreachable, TimeoutError):
            return  # Gone again: what is held stays so until it is back.
        except TenementError as error:
            log.warning("%s: the lease was not renewed, no new request uses it: %s", tenant.name, error)
            if not lease.retired:
                self._retire(lease)
            return
        if address == lease.address and not self._is_over(lease):
            lease.generation = generation
            return
        if not lease.retired:
            self._retire(lease)
        if tenant.name in self.held:
            return
        self._install(tenant, address, generation)


def _drain_timeout_s[P: Pool](lease: Lease[P]) -> float:
    return lease.tenant.policy.drain_timeout_s if lease.tenant is not None else 0.0
