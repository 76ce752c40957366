"""What `List` and `Status` tell about tenants: plain dictionaries that become JSON."""

import time
from typing import Any

from tenement.config import Config
from tenement.lifecycle import State
from tenement.manager.health import health
from tenement.manager.supervisor import Tenant
from tenement.unit_properties import data_path


def summary(tenant: Tenant, config: Config, now: float) -> dict[str, Any]:
    """One row of `ten ps`. `now` is the event loop's time; times in the answer are seconds since 1970."""
    life, name = tenant.life, tenant.name
    return {
        "tenant": str(name),
        "service": name.service,
        "id": name.id,
        "state": str(life.state),
        "since": round(time.time() - (now - life.since), 3) if life.since else tenant.created_at,
        "reason": life.reason,
        "health": str(health(tenant.health_failures)) if life.state is State.RUNNING else None,
        "enabled": life.state is not State.DISABLED,
        "weight": tenant.weight,
        "generation": life.generation if life.address else None,
        "address": life.address,
        "unit": name.unit,
        "url": f"http://{name.host(config.settings.domains[0])}/",
        "leases": len(life.leases),
        "last_used": tenant.last_used_at,
    }


def detail(tenant: Tenant, config: Config, now: float, service_properties: dict[str, Any]) -> dict[str, Any]:
    """Everything about one tenant; `service_properties` are those of its unit, empty if it has none."""
    facts = tenant.facts
    name = tenant.name
    answer = summary(tenant, config, now)
    answer |= {
        "created": tenant.created_at,
        "user": name.user,
        "slice": name.slice,
        "data_dir": data_path(name),
        "invocation_id": facts.invocation_id(),
        "main_pid": service_properties.get("MainPID") or None,
        "restarts": service_properties.get("NRestarts"),
        "result": service_properties.get("Result"),
        "exit_status": service_properties.get("ExecMainStatus")
        if service_properties.get("ExecMainCode")
        else None,
        "memory_bytes": _counter(service_properties.get("MemoryCurrent")),
        "cpu_usec": _nsec_to_usec(service_properties.get("CPUUsageNSec")),
        "tasks": _counter(service_properties.get("TasksCurrent")),
    }
    return answer


def _counter(value: int | None) -> int | None:
    """A counter of systemd's; the largest number means that it is not counted."""
    return None if value is None or value == 2**64 - 1 else value


def _nsec_to_usec(value: int | None) -> int | None:
    counted = _counter(value)
    return None if counted is None else counted // 1000
