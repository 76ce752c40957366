import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tenement.config import Service
from tenement.errors import StartFailed
from tenement.lifecycle import State
from tenement.manager.disk_use import DiskUse, Measure
from tenement.manager.storage import Quotas
from tenement.manager.supervisor import Supervisor, Tenant
from tenement.names import TenantName

ALICE = TenantName("notes", "alice")
SERVICE = Service(name="notes", command=("/x",), storage_quota_mb=1)


class World:
    """A supervisor and a disk, as far as quotas look at them."""

    def __init__(self, service: Service = SERVICE) -> None:
        self.config = SimpleNamespace(services={"notes": service})
        self.bytes = 0
        self.measured = 0
        self.failed: list[str] = []
        self.before_start: Any = None
        self.tenant = SimpleNamespace(name=ALICE, state=State.ASLEEP)

    async def of(self, name: TenantName, fresh_s: float) -> Measure:
        self.measured += 1
        return Measure(self.bytes, 1, 0.0)

    def fail(self, tenant: Tenant, reason: str) -> None:
        self.failed.append(reason)
        self.become(State.FAILED)

    def quotas(self) -> Quotas:
        self.quota = Quotas(cast(Supervisor, self), cast(DiskUse, self), pause_s=0.001)
        return self.quota

    def become(self, state: State) -> None:
        before, self.tenant.state = self.tenant.state, state
        self.quota.changed(cast(Tenant, self.tenant), before)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


def test_a_tenant_is_stopped_above_its_quota_and_starts_when_its_data_fits() -> None:
    async def scenario() -> None:
        world = World()
        quotas = world.quotas()
        world.become(State.RUNNING)
        await settle()
        assert not world.failed
        world.bytes = (1 << 20) + 1
        await settle()
        assert world.failed == [
            "its data takes 2 MiB, and storage_quota_mb allows 1. Raise it, or delete some of the data."
        ]
        with pytest.raises(StartFailed, match="allows 1"):
            await world.before_start(SERVICE, ALICE)
        world.bytes = 1 << 20
        await world.before_start(SERVICE, ALICE)
        await quotas.close()

    asyncio.run(scenario())


def test_sleepers_are_measured_once_and_then_left_alone() -> None:
    async def scenario() -> None:
        world = World()
        quotas = world.quotas()
        world.become(State.RUNNING)
        await settle()
        world.bytes = 5 << 20
        world.become(State.STOPPING)
        world.become(State.ASLEEP)
        await settle()
        measured = world.measured
        await settle()
        assert world.measured == measured
        with pytest.raises(StartFailed):
            await world.before_start(SERVICE, ALICE)
        await quotas.close()

    asyncio.run(scenario())


def test_nothing_is_measured_without_a_quota() -> None:
    async def scenario() -> None:
        world = World(Service(name="notes", command=("/x",)))
        quotas = world.quotas()
        world.become(State.RUNNING)
        await settle()
        world.become(State.ASLEEP)
        await settle()
        await world.before_start(SERVICE, ALICE)
        assert world.measured == 0
        await quotas.close()

    asyncio.run(scenario())
