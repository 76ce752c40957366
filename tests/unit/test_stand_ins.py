"""A tenant's stand-in comes and goes with the change that it covers, whatever happens meanwhile."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from typing import Any

import pytest
from manager_world import ALICE, START_S, FakeUnits, World, run

from tenement.errors import Conflict, NotFound, Overloaded, StartFailed, StartTimeout
from tenement.lifecycle import Goal, State
from tenement.manager import stand_ins
from tenement.manager.stand_ins import StandIns
from tenement.manager.supervisor import CUT_MARGIN_S, Tenant
from tenement.manager.units import UnitFailed, UnitTimeout
from tenement.names import StandIn, TenantName

NEXT = StandIn(ALICE.service, ALICE.id)
WORKER = ":1.1"


@pytest.fixture(autouse=True)
def silent_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_line(name: TenantName, invocation: str | None) -> None:
        return None

    monkeypatch.setattr(stand_ins, "last_line", no_line)


async def overlapping(world: World, **settings: Any) -> tuple[StandIns, Tenant]:
    """Alice runs, and her service says `overlap`."""
    supervisor = world.begin(overlap=True, **settings)
    await supervisor.lease(ALICE, "")
    return StandIns(supervisor, world.units), supervisor.get(ALICE)  # type: ignore[arg-type]


def died(world: World) -> None:
    """Systemd tells that the stand-in exited with status 1."""
    facts = {"InvocationID": [1], "Result": "exit-code", "ExecMainCode": 1, "ExecMainStatus": 1}
    world.systemd_says(NEXT, service=facts, ActiveState="failed", SubState="failed")


@contextlib.contextmanager
def starts_of_the_stand_in(units: FakeUnits) -> Iterator[asyncio.Event]:
    """While the body runs, a stand-in that starts sets the event, and does not get ready."""
    began = asyncio.Event()

    async def hang() -> None:
        if units.log[-1] == ("start", NEXT):
            began.set()
            await asyncio.sleep(1000)

    units.script["start"] = hang
    yield began
    del units.script["start"]


def test_a_restart_keeps_nobody_waiting() -> None:
    async def story(world: World) -> None:
        covers, alice = await overlapping(world)
        loop = asyncio.get_running_loop()
        change = asyncio.create_task(covers.restart(alice))
        while not change.done():
            before = loop.time()
            _, generation = await world.supervisor.lease(ALICE, WORKER)
            assert loop.time() == before, "a caller waited"
            world.supervisor.release(ALICE, WORKER, generation)
            await asyncio.sleep(START_S / 10)
        await change
        assert world.units.up == {ALICE}
        assert world.units.verbs(ALICE) == ["start", "stop", "forget_failure", "start"]

    run(story)


def test_a_stand_in_ends_when_its_last_request_does_and_at_drain_timeout_at_the_latest() -> None:
    async def story(world: World) -> None:
        covers, alice = await overlapping(world, drain_timeout_s=20.0)
        loop = asyncio.get_running_loop()
        for released_after_s, end_s in ((3.0, 3.0), (1000.0, 20.0 + CUT_MARGIN_S)):
            async with covers.covering(alice, "r2"):
                _, generation = await world.supervisor.lease(ALICE, WORKER)
                loop.call_later(released_after_s, world.supervisor.release, ALICE, WORKER, generation)
                began = loop.time()
            assert loop.time() - began == pytest.approx(end_s, abs=0.1)
            assert NEXT not in world.units.up

    run(story)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (UnitFailed("refused"), StartFailed),
        (UnitTimeout("not ready"), StartTimeout),
        (OSError("disk full"), StartFailed),
    ],
)
def test_one_that_does_not_get_ready_is_stopped_and_the_tenant_not_touched(
    fault: Exception, error: type[Exception]
) -> None:
    async def story(world: World) -> None:
        covers, alice = await overlapping(world)

        async def fail() -> None:
            raise fault

        world.units.script["start"] = fail
        with pytest.raises(error, match=f"notes:alice: {fault}"):
            await covers.restart(alice)
        assert world.units.up == {ALICE}
        assert world.units.verbs(ALICE) == ["start"]
        assert not alice.life.held

    run(story)


def test_one_that_dies_before_it_is_ready_is_not_waited_for() -> None:
    async def story(world: World) -> None:
        covers, alice = await overlapping(world)
        with starts_of_the_stand_in(world.units) as began:
            change = asyncio.create_task(covers.restart(alice))
            await began.wait()
            before = asyncio.get_running_loop().time()
            died(world)
            with pytest.raises(StartFailed, match="exited with status 1"):
                await change
            assert asyncio.get_running_loop().time() - before < 1
        assert world.units.up == {ALICE}

    run(story)


def test_callers_of_one_that_dies_while_it_serves_wait_for_the_tenant() -> None:
    async def story(world: World) -> None:
        covers, alice = await overlapping(world)
        async with covers.covering(alice, "r2"):
            assert alice.life.cover is not None
            died(world)
            await asyncio.sleep(0.001)
            assert alice.life.cover is None
            caller = asyncio.create_task(world.supervisor.lease(ALICE, WORKER))
            await asyncio.sleep(1)
            assert not caller.done()
        await caller
        assert NEXT not in world.units.up

    run(story)


def test_a_tenant_that_is_removed_while_its_stand_in_starts_leaves_none_behind() -> None:
    async def story(world: World) -> None:
        covers, alice = await overlapping(world)
        change = asyncio.create_task(covers.restart(alice))
        await asyncio.sleep(START_S / 2)
        await world.supervisor.leave(ALICE, Goal.FORGET, "removed")
        with pytest.raises(NotFound):
            await change
        assert not world.units.up

    run(story)


def test_when_all_ports_are_taken_the_tenant_is_not_touched() -> None:
    async def story(world: World) -> None:
        covers, alice = await overlapping(world)

        def none_left(*_: object, **__: object) -> None:
            raise Overloaded("all ports are in use")

        world.units.instance = none_left  # type: ignore[method-assign,assignment]
        with pytest.raises(Overloaded):
            await covers.restart(alice)
        assert world.state() is State.RUNNING
        assert not alice.life.held

    run(story)


def test_a_tenant_has_one_stand_in_at_a_time_and_who_can_wait_does() -> None:
    async def story(world: World) -> None:
        covers, alice = await overlapping(world)
        change = asyncio.create_task(covers.restart(alice))
        await asyncio.sleep(0.001)
        with pytest.raises(Conflict):
            await covers.restart(alice)
        await covers.change_ended(ALICE)
        assert not alice.life.held
        await change
        await covers.change_ended(ALICE)

    run(story)


def test_no_more_start_at_once_than_the_machine_can_take() -> None:
    async def story(world: World) -> None:
        covers, _ = await overlapping(world)
        names = [TenantName("notes", f"t{number}") for number in range(4 * (os.cpu_count() or 1))]
        tenants = [world.add(name) for name in names]
        for name in names:
            await world.supervisor.lease(name, "")
        world.units.most_starting = 0

        async def cover(tenant: Tenant) -> None:
            async with covers.covering(tenant, "r2"):
                pass

        await asyncio.gather(*map(cover, tenants))
        assert world.units.most_starting == 2 * (os.cpu_count() or 1)

    run(story)


def test_what_a_killed_manager_left_serves_for_a_while_and_the_tenant_is_changed_without() -> None:
    async def story(world: World) -> None:
        covers, alice = await overlapping(
            world, startup_timeout_s=40.0, drain_timeout_s=20.0, idle_timeout_s=0.0
        )
        world.units.up.add(NEXT)
        covers.adopt(NEXT.unit)
        assert not covers.wanted(alice)
        await asyncio.sleep(59)
        assert NEXT in world.units.up
        await asyncio.sleep(2)
        assert world.units.up == {ALICE}
        assert covers.wanted(alice)

    run(story)
