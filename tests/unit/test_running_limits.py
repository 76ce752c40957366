"""How many run at a time: the longest idle gives way, and a few stay warm."""

import asyncio

import pytest
from manager_world import World, config, run

from tenement.lifecycle import State
from tenement.manager.limits import RunningLimits
from tenement.names import TenantName

NAMES = [TenantName("notes", f"t{number}") for number in range(6)]


def limited(world: World, **settings: float) -> None:
    world.begin(**settings)
    world.listeners.append(RunningLimits(world.supervisor))
    for name in NAMES:
        world.add(name)


async def use(world: World, name: TenantName) -> None:
    """One request."""
    _, generation = await world.supervisor.lease(name, ":1.1")
    world.supervisor.release(name, ":1.1", generation)
    await asyncio.sleep(1)


def running(world: World) -> list[TenantName]:
    return [name for name in NAMES if world.state(name) is State.RUNNING]


def test_beyond_the_limit_the_longest_idle_is_put_to_sleep():
    async def story(world: World) -> None:
        limited(world, max_running=3, idle_timeout_s=0.0)
        for name in NAMES[:3]:
            await use(world, name)
        await use(world, NAMES[0])
        await use(world, NAMES[3])
        assert running(world) == [NAMES[0], NAMES[2], NAMES[3]]

    run(story)


def test_one_in_use_is_never_put_to_sleep_and_the_limit_holds_again_later():
    async def story(world: World) -> None:
        limited(world, max_running=1, idle_timeout_s=0.0)
        _, first = await world.supervisor.lease(NAMES[0], ":1.1")
        _, second = await world.supervisor.lease(NAMES[1], ":1.1")
        await asyncio.sleep(100)
        assert running(world) == NAMES[:2]
        world.supervisor.release(NAMES[0], ":1.1", first)
        await world.until(State.ASLEEP, NAMES[0], timeout_s=1)
        world.supervisor.release(NAMES[1], ":1.1", second)
        await asyncio.sleep(100)
        assert running(world) == [NAMES[1]]

    run(story)


def test_a_lower_limit_holds_as_soon_as_it_is_read():
    async def story(world: World) -> None:
        limited(world, max_running=3, idle_timeout_s=0.0)
        for name in NAMES[:3]:
            await use(world, name)
        world.supervisor.configure(config(max_running=1, idle_timeout_s=0.0))
        (limits,) = (each for each in world.listeners if isinstance(each, RunningLimits))
        limits.configure()
        await world.until(State.ASLEEP, NAMES[1], timeout_s=1)
        assert running(world) == [NAMES[2]]

    run(story)


@pytest.mark.parametrize("together", [True, False])
def test_as_many_stay_warm_as_the_service_says_however_idle(together: bool):
    async def story(world: World) -> None:
        limited(world, min_running=2, idle_timeout_s=10.0)
        for name in NAMES[:5]:
            if together:
                await world.supervisor.lease(name, ":1.1")
            else:
                await use(world, name)
        if together:
            for name in NAMES[:5]:
                world.supervisor.release(name, ":1.1", world.supervisor.get(name).life.generation)
        await asyncio.sleep(200)
        assert len(running(world)) == 2
        if not together:
            assert running(world) == NAMES[3:5], "the most recently used stay"

    run(story)
