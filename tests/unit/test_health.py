"""What the manager makes of a worker's complaints, with real connections and a clock that jumps."""

import asyncio
import socket

import pytest
from manager_world import ALICE, World, run

from tenement.lifecycle import State
from tenement.manager.health import HealthChecks

ONE = bytes(range(16))


async def begin(world: World) -> HealthChecks:
    supervisor = world.begin()
    checks = HealthChecks(supervisor, world.units, lambda tenant: None)  # type: ignore[arg-type]
    world.listeners.append(checks)
    await supervisor.lease(ALICE, ":1.1")
    world.systemd_says(service={"MainPID": 7}, ActiveState="active", SubState="running", InvocationID=ONE)
    return checks


def test_nobody_gets_a_tenant_that_refused_a_connection_until_it_is_known_to_be_dead():
    async def story(world: World) -> None:
        checks = await begin(world)
        tenant = world.supervisor.get(ALICE)
        checks.suspect(tenant, refused=True)
        settled = asyncio.ensure_future(checks.settled(tenant))
        await asyncio.sleep(0.1)
        assert not settled.done()
        world.systemd_says(
            service={"MainPID": 0, "Result": "exit-code", "ExecMainCode": 1, "ExecMainStatus": 3},
            ActiveState="activating", SubState="auto-restart",
        )  # fmt: skip
        await settled
        assert tenant.state is not State.RUNNING
        assert "kill" not in world.units.verbs()
        await checks.close()

    run(story)


def test_a_tenant_that_goes_on_refusing_is_killed():
    async def story(world: World) -> None:
        checks = await begin(world)
        tenant = world.supervisor.get(ALICE)
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(5):
            checks.suspect(tenant, refused=True)
        async with asyncio.timeout(5):
            await world.units.killed.wait()
        assert loop.time() - began == pytest.approx(0.5, abs=0.05)
        await checks.close()

    run(story)


def test_a_tenant_that_accepts_connections_again_is_given_at_once():
    async def story(world: World) -> None:
        checks = await begin(world)
        tenant = world.supervisor.get(ALICE)
        assert tenant.instance is not None
        host, _, port = tenant.instance.probe.address.rpartition(":")
        with socket.create_server((host, int(port))):
            checks.suspect(tenant, refused=True)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await checks.settled(tenant)
            assert loop.time() - began < 0.1
        assert tenant.health_failures == 0
        await checks.close()

    run(story)


def test_an_answer_that_did_not_come_keeps_nobody_waiting():
    async def story(world: World) -> None:
        checks = await begin(world)
        tenant = world.supervisor.get(ALICE)
        checks.suspect(tenant, refused=False)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await checks.settled(tenant)
        assert loop.time() == began
        await checks.close()

    run(story)
