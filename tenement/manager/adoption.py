"""Units that run already when the manager starts: whose they are, and what state their tenants are in.

This is what makes a restart, an upgrade or a crash of the manager harmless to the tenants.
"""

import asyncio
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from tenement import unit_properties
from tenement.config import DIRECTORY, Service
from tenement.errors import TenementError
from tenement.lifecycle import State
from tenement.manager.stand_ins import StandIns
from tenement.manager.supervisor import Supervisor, Tenant
from tenement.manager.units import Instance, UnitFailed, Units
from tenement.manager.verdict import Facts
from tenement.names import TenantName
from tenement.systemd import SERVICE, UNIT, Systemd, SystemdError, UnitState
from tenement.unit_properties import Launch, gate_path

log = logging.getLogger(__name__)

_PATTERN: Final = "tenement-*@*.service"
# systemd goes on with the stop by itself; this only ends our waiting.
_ORPHAN_STOP_S: Final = 15.0


async def adopt_all(systemd: Systemd, supervisor: Supervisor, units: Units, stand_ins: StandIns) -> int:
    """Take over every unit of a tenant, and stop those that belong to nobody. Gives the number taken over."""
    adopted = 0
    for row in await systemd.list_units([_PATTERN]):
        name = TenantName.parse_unit(row.name)
        if name is None:
            stand_ins.adopt(row.name)
            continue
        tenant = supervisor.tenants.get(name)
        service = supervisor.config.services.get(name.service)
        if tenant is None or service is None or tenant.state is State.DISABLED:
            await _stop_orphan(units, name, row)
        elif await _adopt(systemd, supervisor, tenant, service, row):
            adopted += 1
    return adopted


async def _stop_orphan(units: Units, name: TenantName, row: UnitState) -> None:
    if row.active in ("active", "activating", "reloading", "deactivating"):
        log.warning("%s runs, but there is no such tenant, or not any more: stopping it", row.name)
        try:
            # systemd does not stop what is frozen, and does not thaw what is stopping already.
            with suppress(UnitFailed):
                await units.thaw(name)
            async with asyncio.timeout(_ORPHAN_STOP_S):
                await units.stop(name, None)
        except (TenementError, TimeoutError) as error:
            log.warning("%s is not stopped yet, going on without: %s", row.name, error)
    await units.forget_failure(name)


async def _adopt(
    systemd: Systemd, supervisor: Supervisor, tenant: Tenant, service: Service, row: UnitState
) -> bool:
    try:
        service_properties = await systemd.get_all(row.name, SERVICE)
        unit = await systemd.get_all(row.name, UNIT)
    except SystemdError:
        # It ended while we looked.
        return False
    facts = Facts()
    facts.update(service_properties)
    facts.update(unit)
    instance = _instance(supervisor, tenant, service, service_properties)
    state = _state(facts, instance)
    up_s = time.monotonic() - unit.get("ActiveEnterTimestampMonotonic", 0) / 1_000_000
    if state is State.RUNNING and up_s < service.startup_timeout_s:
        # Perhaps its app is not ready yet: whoever was to find that out is gone.
        state = State.STARTING
    if state is State.FAILED:
        tenant.life.state, tenant.life.reason, tenant.sick = State.FAILED, facts.reason(), True
        return False
    if state is State.ASLEEP:
        return False
    if state is State.ARMED and _newest_change() > unit.get("ActiveEnterTimestamp", 0) / 1_000_000:
        # Built from an older configuration, or by an older tenement.
        state = State.STOPPING
    supervisor.adopt(tenant, state, instance, facts)
    return True


def _instance(
    supervisor: Supervisor, tenant: Tenant, service: Service, properties: dict[str, Any]
) -> Instance:
    """The start that the unit came from, read back from the unit: the configuration may differ now."""
    variables = dict(pair.split("=", 1) for pair in properties.get("Environment", []) if "=" in pair)
    port = variables.get("PORT", "")
    if port.isdigit():
        running = msgspec.structs.replace(service, listen="port")
    else:
        running = msgspec.structs.replace(service, listen="socket" if "SOCKET_PATH" in variables else "fd")
    armed = os.path.exists(gate_path(tenant.name))
    launch = Launch(0, int(port) if port.isdigit() else None, armed)
    return Instance(tenant.name, running, launch, supervisor.host(tenant.name))


def _state(facts: Facts, instance: Instance) -> State:
    if facts.restarting:
        # A unit that died frozen is never started again.
        return State.STOPPING if facts.values.get("FreezerState") == "frozen" else State.BACKOFF
    match facts.active:
        case "active" | "reloading" if instance.launch.armed:
            return State.ARMED
        case "active" | "reloading":
            return State.FROZEN if Units.is_frozen(instance.name) else State.RUNNING
        case "activating":
            return State.STARTING
        case "deactivating":
            return State.STOPPING
        case "failed":
            return State.FAILED
        case _:
            return State.ASLEEP


def _newest_change() -> float:
    """When the configuration or this program last changed, in seconds since 1970."""
    directory = Path(DIRECTORY)
    paths = [Path(unit_properties.__file__), directory, *directory.glob("**/*")]
    return max((path.stat().st_mtime for path in paths if path.exists()), default=0.0)
