"""The manager itself: registry, configuration and supervisor put together, and what callers can ask of it."""

import asyncio
import grp
import json
import logging
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from tenement.config import Config
from tenement.errors import NotFound, StartFailed, TenementError
from tenement.lifecycle import AWAKE, Goal, State
from tenement.manager import inventory, measurements, routes
from tenement.manager.addresses import AddressWatch, own_addresses
from tenement.manager.adoption import adopt_all
from tenement.manager.arming import Arming
from tenement.manager.certificates import Certificates
from tenement.manager.configuration import Configuration
from tenement.manager.deploy import WEIGHT, Deploys
from tenement.manager.health import HealthChecks
from tenement.manager.last_line import last_line
from tenement.manager.limits import RunningLimits
from tenement.manager.rollout import Rollouts
from tenement.manager.stand_ins import StandIns
from tenement.manager.sticky_key import sticky_key
from tenement.manager.storage import Quotas
from tenement.manager.supervisor import Supervisor, Tenant
from tenement.manager.units import Units
from tenement.manager.web import Web
from tenement.names import TenantName
from tenement.registry import Registry
from tenement.systemd import SERVICE, Systemd, SystemdError
from tenement.tls.store import Store

log = logging.getLogger(__name__)

SYSTEMD_MIN: Final = 254
STATE_DIRECTORY: Final = Path("/var/lib/tenement-manager")
_BOOT_MARK: Final = Path("/run/tenement/booted")
_PROXY_GROUP: Final = "tenement-proxy"

Emit = Callable[[str, list[Any]], None]


class Manager:
    """Everything the manager does, but for taking messages from the bus. `emit` sends a signal."""

    def __init__(
        self, registry: Registry, configuration: Configuration, systemd: Systemd, version: int, emit: Emit
    ):
        self._registry = registry
        self._configuration = configuration
        self._systemd = systemd
        self._emit = emit
        workers = grp.getgrnam(_PROXY_GROUP).gr_gid
        self._units = Units(systemd, version, workers, lambda: self._addresses)
        config = configuration.config
        self._supervisor = Supervisor(self._units, config, self, _concurrent_starts(config))
        self._arming = Arming(self._supervisor)
        self._health = HealthChecks(self._supervisor, self._units, self._route_changed)
        self._limits = RunningLimits(self._supervisor)
        self.web = Web(self._supervisor, registry.tokens, measurements.DIRECTORY)
        self._quotas = Quotas(self._supervisor, self.web.disk_use)
        self.certificates = Certificates(
            registry.tls, systemd, Store(workers), self._supervisor, self._announce, self._routes_reloaded
        )
        self._stand_ins = StandIns(self._supervisor, self._units)
        self.rollouts = Rollouts(
            self._supervisor,
            self._units,
            systemd,
            version,
            self._stand_ins,
            registry.releases,
            registry.transaction,
        )
        self.deploys = Deploys(self._supervisor, registry, self._register, self._tell_weights)
        self._addresses = own_addresses()
        self._address_watch: AddressWatch | None = None
        self._sticky_key = sticky_key(STATE_DIRECTORY / "sticky.key")
        self._serial = 0
        self._background: set[asyncio.Task[None]] = set()

    @property
    def supervisor(self) -> Supervisor:
        """The tenants."""
        return self._supervisor

    async def start(self) -> None:
        """Load the registry, adopt the units that run, and start what has to run from boot on."""
        self._units.prepare_directories()
        for row in self._registry.tenants():
            self._supervisor.add(
                row.name,
                enabled=row.enabled,
                weight=row.weight,
                created_at=row.created_at,
                last_used_at=row.last_used_at,
            )
        await self._systemd.watch("tenement-", self._supervisor.unit_changed)
        adopted = await adopt_all(self._systemd, self._supervisor, self._units, self._stand_ins)
        log.info("%d tenants, %d of them running", len(self._supervisor.tenants), adopted)
        await self._renew_slices()
        await self.rollouts.start()
        self._address_watch = AddressWatch(self._addresses_changed)
        self._register_instances()
        await self.certificates.start()
        if not _BOOT_MARK.exists():
            _BOOT_MARK.touch()
            self._start_at_boot()
        self._arming.start(self._supervisor.tenants.values())

    async def close(self) -> None:
        """Stop; the tenants' units go on."""
        if self._address_watch is not None:
            self._address_watch.close()
        await self._arming.close()
        await self._health.close()
        await self._quotas.close()
        await self.web.close()
        await self.certificates.close()
        await self.rollouts.close()
        await self._stand_ins.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._supervisor.close()

    # What the workers ask

    async def lease(self, worker: str, service: str, id_: str) -> tuple[str, int]:
        """Wait until the tenant is ready and lease it to the worker. See Supervisor.lease for errors."""
        tenant = self._supervisor.tenants.get(TenantName(service, id_))
        if tenant is not None:
            await self._health.settled(tenant)
        return await self._supervisor.lease(TenantName(service, id_), worker)

    def release(self, worker: str, service: str, id_: str, generation: int) -> None:
        """Take a lease back; with generation 0, end the worker's wait for one."""
        self._supervisor.release(TenantName(service, id_), worker, generation)

    def report(self, service: str, id_: str, generation: int, what: str) -> None:
        """A worker could not use its lease ("refused", "reset"): look after the tenant."""
        tenant = self._supervisor.tenants.get(TenantName(service, id_))
        if tenant is not None and tenant.life.generation == generation:
            log.debug("%s: a worker reports: %s", tenant.name, what)
            self._health.suspect(tenant, refused=what == "refused")

    def routes(self) -> tuple[int, str]:
        """The serial of the routes, and the document."""
        document = routes.document(
            self._supervisor.config, self._supervisor.tenants.values(), self.certificates.domains.owners
        )
        document |= self.certificates.document() | {"sticky_key": self._sticky_key}
        return self._serial, json.dumps(document, separators=(",", ":"))

    def worker_gone(self, worker: str) -> None:
        """A client left the bus; if it was a worker, its leases are void."""
        self._supervisor.worker_gone(worker)

    # What operators ask

    async def spawn(self, service: str, id_: str, *, start: bool) -> None:
        """Create a tenant, and start it.

        Raises InvalidName, NotFound for the service, AlreadyExists, StartFailed, StartTimeout.
        """
        name = TenantName(service, id_)
        if service not in self._supervisor.config.services:
            raise NotFound(
                f"{name}: there is no service {service!r}. "
                f"Add [service.{service}] to /etc/tenement/tenement.toml."
            )
        self._register(name)
        if start:
            await self._explained(name, self._supervisor.lease(name, ""))

    async def stop(self, service: str, id_: str) -> None:
        """Put a tenant to sleep; the next request wakes it. Raises NotFound, Conflict."""
        await self._supervisor.leave(TenantName(service, id_), Goal.SLEEP, "stopped by the operator")

    async def restart(self, service: str, id_: str) -> None:
        """Stop and start a tenant; requests wait, unless its service says `overlap`.

        Raises NotFound, Disabled, Conflict, StartFailed, StartTimeout.
        """
        name = TenantName(service, id_)
        tenant = self._supervisor.get(name)
        overlaps = self._stand_ins.wanted(tenant)
        await self._explained(
            name, self._stand_ins.restart(tenant) if overlaps else self._supervisor.restart(name)
        )

    async def disable(self, service: str, id_: str) -> None:
        """Stop a tenant and let nothing wake it. Raises NotFound, Conflict."""
        name = TenantName(service, id_)
        self._supervisor.get(name)
        self._registry.set_enabled(name, False)
        await self._supervisor.leave(name, Goal.DISABLE, "disabled by the operator")

    def enable(self, service: str, id_: str) -> None:
        """Let a disabled tenant wake again. Raises NotFound."""
        name = TenantName(service, id_)
        self._supervisor.get(name)
        self._registry.set_enabled(name, True)
        self._supervisor.enable(name)

    async def remove(self, service: str, id_: str, *, purge: bool) -> None:
        """Stop and forget a tenant, and delete its data if `purge`. Raises NotFound, Conflict."""
        name = TenantName(service, id_)
        await self._supervisor.leave(name, Goal.FORGET, "removed by the operator")
        if purge:
            # A stand-in has the same data, and may still have requests under way.
            await self._stand_ins.change_ended(name)
            await asyncio.to_thread(self._units.purge, name)

    def set_weight(self, service: str, id_: str, weight: int) -> None:
        """Set a tenant's share of its service's requests. Raises NotFound, InvalidName."""
        name = TenantName(service, id_)
        self.deploys.set_weights({name: weight})

    def listing(self, selector: str) -> str:
        """A JSON array: all tenants for "", those of a service, or one. Raises NotFound."""
        now = asyncio.get_running_loop().time()
        config = self._supervisor.config
        found = [inventory.summary(tenant, config, now) for tenant in self._selected(selector)]
        for entry in found:
            entry["url"] = self.certificates.url(entry["url"])
        return json.dumps(found)

    async def status(self, service: str, id_: str) -> str:
        """A JSON object with everything about one tenant. Raises NotFound."""
        tenant = self._supervisor.get(TenantName(service, id_))
        properties: dict[str, Any] = {}
        try:
            properties = await self._systemd.get_all(tenant.name.unit, SERVICE)
        except SystemdError:
            # No unit is loaded: the tenant is asleep.
            properties = {}
        config, now = self._supervisor.config, asyncio.get_running_loop().time()
        answer = inventory.detail(tenant, config, now, properties)
        answer["url"] = self.certificates.url(answer["url"])
        answer |= self.rollouts.describe(tenant.name)
        answer["last_line"] = await last_line(tenant.name, None)
        return json.dumps(answer)

    async def reload(self) -> str:
        """Read the configuration again. Raises InvalidConfig, and then changes nothing."""
        before = self._supervisor.config
        config, warnings = self._configuration.reload()
        changed = sorted(
            name
            for name in before.services.keys() | config.services.keys()
            if before.services.get(name) != config.services.get(name)
        )
        self._supervisor.configure(config)
        self._supervisor.set_concurrent_starts(_concurrent_starts(config))
        self._arming.configure()
        self._limits.configure()
        self._register_instances()
        for name in changed:
            if name in config.services:
                await self._units.refresh_slice(config.services[name])
        self.certificates.names_changed()
        self._routes_reloaded()
        log.info("configuration read again; changed services: %s", ", ".join(changed) or "none")
        return json.dumps({"changed": changed, "warnings": warnings})

    # What the supervisor tells (see supervisor.Listener)

    def revoked(self, name: TenantName, generation: int, reason: str) -> None:
        """Pass the word on to the workers."""
        self._emit("Revoked", [name.service, name.id, generation, reason])

    def changed(self, tenant: Tenant, before: State) -> None:
        """Keep the registry and the workers' routes up to date, and tell those who decide by it."""
        for part in (self._arming, self._health, self._limits, self._quotas, self.web):
            part.changed(tenant, before)
        if tenant.state is State.GONE:
            try:
                self._registry.remove(tenant.name)
            except sqlite3.Error as error:
                log.error("%s: removed, but will be back when the manager restarts: %s", tenant.name, error)
            self.certificates.domains.forget(tenant.name)
            self.certificates.names_changed()
            self.rollouts.changed(tenant)
            self._tell_routes({str(tenant.name): None})
        elif State.DISABLED in (tenant.state, before):
            self._route_changed(tenant)
        elif tenant.state is State.ASLEEP and before in AWAKE and tenant.last_used_at is not None:
            try:
                self._registry.set_last_used(tenant.name, tenant.last_used_at)
            except sqlite3.Error as error:
                # It only decides whom to arm. A full disk must not keep tenants from falling asleep.
                log.warning("%s: the time of its last use is not kept: %s", tenant.name, error)

    def idle(self, tenant: Tenant) -> None:
        """Perhaps there are too many."""
        self._limits.idle(tenant)

    def may_sleep(self, tenant: Tenant) -> bool:
        """Perhaps there are too few."""
        return self._limits.may_sleep(tenant)

    # Private

    def _register(self, name: TenantName, weight: int = WEIGHT) -> None:
        with self._registry.transaction():
            row = self._registry.add(name, time.time())
            self._registry.set_weight(name, weight)
            self.rollouts.created(name)
        tenant = self._supervisor.add(
            name, enabled=True, weight=weight, created_at=row.created_at, last_used_at=None
        )
        self._route_changed(tenant)
        self.certificates.names_changed()

    def _register_instances(self) -> None:
        for name in self._supervisor.config.instances:
            if name not in self._supervisor.tenants:
                self._register(name)

    def _start_at_boot(self) -> None:
        """Start the tenants of [instances], those that never sleep, and as many as a service keeps warm."""
        config = self._supervisor.config
        wanted = set(config.instances)
        for service in config.services.values():
            ours = [
                tenant for name, tenant in self._supervisor.tenants.items() if name.service == service.name
            ]
            ours.sort(key=lambda tenant: tenant.last_used_at or 0.0, reverse=True)
            wanted.update(t.name for t in (ours[: service.min_running] if service.idle_timeout_s else ours))
        for name in sorted(wanted):
            if self._supervisor.get(name).state is State.ASLEEP:
                self._spawn_task(self._start_quietly(name))

    async def _start_quietly(self, name: TenantName) -> None:
        try:
            await self._supervisor.lease(name, "")
        except TenementError as error:
            log.warning("%s", error)

    async def _explained(self, name: TenantName, start: Awaitable[object]) -> None:
        """Wait for a start; if it fails, add the last line that the app printed to the error."""
        try:
            await start
        except StartFailed as error:
            line = await last_line(name, None) if error.last_line is None else None
            if not line:
                raise
            raise StartFailed(f"{error} (last line: {line})", tenant=error.tenant, last_line=line) from error

    def _selected(self, selector: str) -> list[Tenant]:
        if not selector:
            return sorted(self._supervisor.tenants.values(), key=lambda tenant: tenant.name)
        if ":" in selector:
            return [self._supervisor.get(TenantName.parse(selector))]
        found = [tenant for tenant in self._supervisor.tenants.values() if tenant.name.service == selector]
        if not found and selector not in self._supervisor.config.services:
            raise NotFound(f"{selector}: no such service")
        return sorted(found, key=lambda tenant: tenant.name)

    def _route_changed(self, tenant: Tenant) -> None:
        self._tell_routes({str(tenant.name): routes.tenant_route(tenant)})

    def _tell_weights(self, tenants: list[Tenant]) -> None:
        self._tell_routes({str(tenant.name): routes.tenant_route(tenant) for tenant in tenants})

    def _tell_routes(self, tenants: dict[str, Any]) -> None:
        self._announce({"tenants": tenants})

    def _announce(self, change: dict[str, Any]) -> None:
        self._serial += 1
        self._emit("RoutesChanged", [self._serial, json.dumps(change)])

    def _routes_reloaded(self) -> None:
        self._serial += 1
        self._emit("RoutesChanged", [self._serial, json.dumps({"reload": True})])

    async def _renew_slices(self) -> None:
        """Bring the slices up to date of which tenants were running before the manager."""
        config = self._supervisor.config
        awake = {name.service for name, each in self._supervisor.tenants.items() if each.instance is not None}
        for name in awake & config.services.keys():
            try:
                await self._units.ensure_slice(config.services[name])
            except TenementError as error:
                log.warning("%s", error)

    def _addresses_changed(self) -> None:
        self._spawn_task(self._refresh_slices())

    async def _refresh_slices(self) -> None:
        addresses = own_addresses()
        if addresses == self._addresses:
            return
        log.info("the host's addresses changed: %s", ", ".join(addresses) or "none")
        self._addresses = addresses
        for service in self._supervisor.config.services.values():
            await self._units.refresh_slice(service)

    def _spawn_task(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _concurrent_starts(config: Config) -> int:
    return config.settings.max_concurrent_starts or 2 * (os.cpu_count() or 1)


async def check_systemd(systemd: Systemd) -> int:
    """systemd's version. Raises TenementError if it is too old."""
    version = await systemd.version()
    if version < SYSTEMD_MIN:
        raise TenementError(
            f"systemd {version} is too old: tenement needs {SYSTEMD_MIN} or newer (Debian 13 has 257)"
        )
    return version
