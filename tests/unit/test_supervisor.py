"""What the supervisor makes of what happens, with units made of a script and a clock that jumps."""

import asyncio

import pytest
from manager_world import ALICE, BOB, START_S, World, config, run

from tenement.errors import Conflict, Disabled, NotFound, StartFailed, StartTimeout
from tenement.lifecycle import Goal, State
from tenement.manager.supervisor import CUT_MARGIN_S
from tenement.manager.units import UnitFailed
from tenement.names import TenantName

ONE, TWO = bytes(16), bytes(range(16))


def test_all_who_ask_at_once_share_one_start():
    async def story(world: World) -> None:
        supervisor = world.begin()
        leases = await asyncio.gather(*(supervisor.lease(ALICE, f":1.{n}") for n in range(200)))
        assert len(set(leases)) == 1
        assert world.units.verbs() == ["start"]

    run(story)


def test_no_more_start_at_a_time_than_allowed_and_all_do():
    async def story(world: World) -> None:
        supervisor = world.begin(concurrent_starts=3)
        names = [TenantName("notes", f"t{number}") for number in range(50)]
        for name in names:
            world.add(name)
        await asyncio.gather(*(supervisor.lease(name, ":1.1") for name in names))
        assert world.units.most_starting == 3
        assert [name for _, name in world.units.log] == names

    run(story)


def test_an_idle_tenant_is_frozen_then_stopped_and_never_stopped_frozen():
    async def story(world: World) -> None:
        supervisor = world.begin(freeze_timeout_s=10.0, idle_timeout_s=60.0)
        _, generation = await supervisor.lease(ALICE, ":1.1")
        await asyncio.sleep(500)
        assert world.state() is State.RUNNING, "it is leased"
        supervisor.release(ALICE, ":1.1", generation)
        assert await world.until(State.FROZEN) == pytest.approx(10, abs=0.1)
        assert await world.until(State.ASLEEP) == pytest.approx(50, abs=0.1)
        assert world.units.verbs() == ["start", "freeze", "thaw", "stop"]

    run(story)


def test_a_request_for_a_frozen_tenant_thaws_it_and_keeps_its_generation():
    async def story(world: World) -> None:
        supervisor = world.begin(freeze_timeout_s=1.0)
        address, generation = await supervisor.lease(ALICE, ":1.1")
        supervisor.release(ALICE, ":1.1", generation)
        await world.until(State.FROZEN)
        assert await supervisor.lease(ALICE, ":1.1") == (address, generation)
        assert world.units.verbs() == ["start", "freeze", "thaw"]

    run(story)


def test_a_start_that_hangs_is_given_up_stopped_and_remembered():
    async def story(world: World) -> None:
        supervisor = world.begin(startup_timeout_s=5.0)
        world.units.script["start"] = asyncio.Event().wait  # type: ignore[assignment]
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(StartTimeout, match="not ready within 5 s"):
            await supervisor.lease(ALICE, ":1.1")
        assert loop.time() - began == pytest.approx(6, abs=0.1)

    run(story)


def test_a_start_that_fails_is_told_to_all_who_wait_and_the_unit_is_cleared_away():
    async def story(world: World) -> None:
        async def fail() -> None:
            raise UnitFailed("it listens on every address")

        supervisor = world.begin(backoff_base_ms=2000)
        world.units.script["start"] = fail
        answers = await asyncio.gather(
            *(supervisor.lease(ALICE, f":1.{n}") for n in range(20)), return_exceptions=True
        )
        assert all(isinstance(answer, StartFailed) for answer in answers)
        assert "it listens on every address" in str(answers[0])
        await world.until(State.FAILED)
        assert world.units.verbs()[:2] == ["start", "stop"]
        with pytest.raises(StartFailed):
            await supervisor.lease(ALICE, ":1.1")
        assert world.units.verbs().count("start") == 1, "tried again before the backoff was over"
        del world.units.script["start"]
        await asyncio.sleep(2)
        await supervisor.lease(ALICE, ":1.1")
        assert world.state() is State.RUNNING

    run(story)


def test_a_wait_that_is_given_up_starts_nothing():
    async def story(world: World) -> None:
        supervisor = world.begin(concurrent_starts=1)
        first = asyncio.create_task(supervisor.lease(BOB, ":1.1"))
        second = asyncio.create_task(supervisor.lease(ALICE, ":1.1"))
        await asyncio.sleep(START_S / 2)
        assert world.state() is State.QUEUED
        supervisor.release(ALICE, ":1.1", 0)
        with pytest.raises(Conflict):
            await second
        await first
        await asyncio.sleep(1)
        assert world.units.verbs(ALICE) == []
        assert world.state() is State.ASLEEP

    run(story)


def test_a_wait_whose_task_is_cancelled_starts_nothing():
    async def story(world: World) -> None:
        supervisor = world.begin(concurrent_starts=1)
        first = asyncio.create_task(supervisor.lease(BOB, ":1.1"))
        second = asyncio.create_task(supervisor.lease(ALICE, ":1.1"))
        await asyncio.sleep(START_S / 2)
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        await asyncio.sleep(1)
        assert world.units.verbs(ALICE) == []

    run(story)


def test_a_worker_that_leaves_the_bus_holds_and_waits_for_nothing():
    async def story(world: World) -> None:
        supervisor = world.begin(idle_timeout_s=5.0)
        await supervisor.lease(ALICE, ":1.1")
        waiting = asyncio.create_task(supervisor.lease(BOB, ":1.1"))
        await asyncio.sleep(0)
        supervisor.worker_gone(":1.1")
        with pytest.raises(Conflict):
            await waiting
        assert await world.until(State.ASLEEP) == pytest.approx(5, abs=0.1)

    run(story)


def test_a_stop_waits_for_the_requests_in_flight_and_no_longer_than_the_drain_timeout():
    async def story(world: World) -> None:
        supervisor = world.begin(drain_timeout_s=20.0)
        loop = asyncio.get_running_loop()
        _, generation = await supervisor.lease(ALICE, ":1.1")
        began = loop.time()
        stop = asyncio.create_task(supervisor.leave(ALICE, Goal.SLEEP, "tests"))
        await asyncio.sleep(3)
        assert world.revoked_ == [(ALICE, generation, "tests")]
        assert world.state() is State.DRAINING
        supervisor.release(ALICE, ":1.1", generation)
        await stop
        assert loop.time() - began < 4

        await supervisor.lease(ALICE, ":1.1")
        began = loop.time()
        await supervisor.leave(ALICE, Goal.SLEEP, "tests")
        assert loop.time() - began == pytest.approx(20 + CUT_MARGIN_S, abs=0.5)

    run(story)


def test_a_request_during_a_stop_gets_the_start_that_follows():
    async def story(world: World) -> None:
        supervisor = world.begin()
        _, old = await supervisor.lease(ALICE, ":1.1")
        stop = asyncio.create_task(supervisor.leave(ALICE, Goal.SLEEP, "tests"))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(supervisor.lease(ALICE, ":1.2"))
        await asyncio.sleep(1)
        assert not waiting.done(), "a new request was sent to a tenant that drains"
        supervisor.release(ALICE, ":1.1", old)
        await stop
        _, new = await waiting
        assert new > old
        assert world.units.verbs() == ["start", "stop", "forget_failure", "start"]

    run(story)


def test_a_late_release_of_an_old_generation_takes_nobodys_lease():
    async def story(world: World) -> None:
        supervisor = world.begin()
        _, old = await supervisor.lease(ALICE, ":1.1")
        supervisor.release(ALICE, ":1.1", old)
        await supervisor.leave(ALICE, Goal.SLEEP, "tests")
        await supervisor.lease(ALICE, ":1.1")
        supervisor.release(ALICE, ":1.1", old)
        assert supervisor.get(ALICE).life.leases == {":1.1"}

    run(story)


def test_a_disabled_or_removed_tenant_is_refused_at_once():
    async def story(world: World) -> None:
        supervisor = world.begin()
        await supervisor.leave(ALICE, Goal.DISABLE, "tests")
        with pytest.raises(Disabled):
            await supervisor.lease(ALICE, ":1.1")
        with pytest.raises(Disabled):
            await supervisor.restart(ALICE)
        supervisor.enable(ALICE)
        await supervisor.lease(ALICE, "")
        await supervisor.leave(ALICE, Goal.FORGET, "tests")
        with pytest.raises(NotFound):
            await supervisor.lease(ALICE, ":1.1")
        assert ALICE not in supervisor.tenants

    run(story)


def test_a_death_while_serving_voids_the_leases_and_the_restart_is_waited_for():
    async def story(world: World) -> None:
        supervisor = world.begin()
        _, old = await supervisor.lease(ALICE, ":1.1")
        world.systemd_says(service={"MainPID": 7}, ActiveState="active", SubState="running", InvocationID=ONE)
        world.systemd_says(
            service={"MainPID": 0, "Result": "signal", "ExecMainCode": 2, "ExecMainStatus": 9},
            ActiveState="activating", SubState="auto-restart",
        )  # fmt: skip
        assert world.state() is State.BACKOFF
        assert world.revoked_ == [(ALICE, old, "killed by SIGKILL")]
        waiting = asyncio.create_task(supervisor.lease(ALICE, ":1.1"))
        await asyncio.sleep(0.1)
        world.systemd_says(
            service={"MainPID": 8, "Result": "success"}, ActiveState="active", SubState="running",
            InvocationID=TWO,
        )  # fmt: skip
        _, new = await waiting
        assert new > old
        assert world.units.verbs() == ["start", "watch"]

    run(story)


def test_late_news_of_the_unit_before_is_no_death_of_the_one_that_follows_at_once():
    async def story(world: World) -> None:
        supervisor = world.begin()
        await supervisor.lease(ALICE, "")
        world.systemd_says(service={"MainPID": 7}, ActiveState="active", SubState="running", InvocationID=TWO)
        stop = asyncio.create_task(supervisor.leave(ALICE, Goal.SLEEP, "tests"))
        await asyncio.sleep(0)
        waiting = asyncio.create_task(supervisor.lease(ALICE, ":1.1"))
        await world.until(State.STARTING)
        world.systemd_says(
            service={"MainPID": 0, "Result": "signal", "ExecMainCode": 2, "ExecMainStatus": 9},
            ActiveState="failed", SubState="failed", InvocationID=TWO,
        )  # fmt: skip
        assert world.state() is State.STARTING
        await waiting
        await stop

    run(story)


def test_a_changed_service_rebuilds_its_armed_tenants_only():
    async def story(world: World) -> None:
        supervisor = world.begin()
        supervisor.prepare(supervisor.get(ALICE))
        await supervisor.lease(BOB, ":1.1")
        await world.until(State.ARMED)
        supervisor.configure(config())
        assert world.state() is State.ARMED, "nothing changed"
        supervisor.configure(config(tasks_max=7))
        await world.until(State.ASLEEP)
        assert world.state(BOB) is State.RUNNING
        assert world.units.verbs(ALICE) == ["arm", "stop"]

    run(story)


def test_an_armed_tenant_is_fired_and_not_started():
    async def story(world: World) -> None:
        supervisor = world.begin()
        supervisor.prepare(supervisor.get(ALICE))
        await world.until(State.ARMED)
        await supervisor.lease(ALICE, ":1.1")
        assert world.units.verbs() == ["arm", "fire"]

    run(story)


def test_a_request_while_a_tenant_is_being_armed_is_served_by_it():
    async def story(world: World) -> None:
        supervisor = world.begin()
        supervisor.prepare(supervisor.get(ALICE))
        await asyncio.sleep(START_S / 2)
        await supervisor.lease(ALICE, ":1.1")
        assert world.units.verbs() == ["arm", "fire"]

    run(story)


def test_a_gate_that_died_is_noticed_before_a_request_meets_it():
    async def story(world: World) -> None:
        supervisor = world.begin()
        supervisor.prepare(supervisor.get(ALICE))
        await world.until(State.ARMED)
        world.systemd_says(
            service={"MainPID": 0, "Result": "signal", "ExecMainCode": 2, "ExecMainStatus": 9},
            ActiveState="failed", SubState="failed", InvocationID=ONE,
        )  # fmt: skip
        assert world.state() is State.ASLEEP
        world.units.up.clear()
        await supervisor.lease(ALICE, ":1.1")
        assert world.units.verbs() == ["arm", "start"]

    run(story)


def test_closing_leaves_the_units_alone():
    async def story(world: World) -> None:
        supervisor = world.begin()
        await supervisor.lease(ALICE, ":1.1")
        starting = asyncio.create_task(supervisor.lease(BOB, ":1.1"))
        await asyncio.sleep(START_S / 2)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)

    world = run(story)
    assert world.units.up == {ALICE, BOB}
    assert "stop" not in world.units.verbs(ALICE)
