"""Which of the sleeping tenants are armed, and when."""

import asyncio

from manager_world import World, config, run

from tenement.config import Config, Settings
from tenement.errors import TenementError
from tenement.lifecycle import Goal, State
from tenement.manager.arming import Arming
from tenement.manager.units import UnitFailed
from tenement.names import TenantName

NAMES = [TenantName("notes", f"t{number}") for number in range(5)]


def with_limit(limit: int) -> Config:
    return Config(settings=Settings(armed_max=limit), services=config().services)


async def begin(world: World, limit: int = 2, last_used: tuple[float | None, ...] = (None,) * 5) -> Arming:
    world.begin()
    world.supervisor.config = with_limit(limit)
    tenants = [world.add(name, last_used_at=used) for name, used in zip(NAMES, last_used, strict=True)]
    arming = Arming(world.supervisor)
    world.listeners.append(arming)
    arming.start(tenants)
    return arming


async def use(world: World, name: TenantName) -> None:
    """Wake it, and put it to sleep again."""
    _, generation = await world.supervisor.lease(name, ":1.1")
    world.supervisor.release(name, ":1.1", generation)
    await world.supervisor.leave(name, Goal.SLEEP, "tests")


def armed(world: World) -> list[TenantName]:
    return [name for name in NAMES if world.state(name) is State.ARMED]


def test_the_most_recently_used_are_armed_and_no_more_than_allowed():
    async def story(world: World) -> None:
        arming = await begin(world)
        for name in NAMES[:4]:
            await use(world, name)
        await asyncio.sleep(10)
        assert armed(world) == NAMES[2:4]
        await use(world, NAMES[0])
        await asyncio.sleep(10)
        assert armed(world) == [NAMES[0], NAMES[3]]
        await arming.close()

    run(story)


def test_a_tenant_that_was_never_used_is_not_armed():
    async def story(world: World) -> None:
        arming = await begin(world, last_used=(None, 5.0, None, 9.0, 7.0))
        await asyncio.sleep(10)
        assert armed(world) == [NAMES[3], NAMES[4]]
        await arming.close()

    run(story)


def test_no_arming_begins_while_something_starts():
    async def story(world: World) -> None:
        arming = await begin(world, last_used=(1.0, 2.0, None, None, None))
        go = asyncio.Event()
        world.units.script["start"] = go.wait  # type: ignore[assignment]
        waking = asyncio.create_task(world.supervisor.lease(NAMES[4], ":1.1"))
        await asyncio.sleep(20)
        assert len(armed(world)) == 1, "only the one that was under way"
        go.set()
        await waking
        await asyncio.sleep(10)
        assert armed(world) == NAMES[:2]
        await arming.close()

    run(story)


def test_a_lower_limit_disarms_the_least_recently_used():
    async def story(world: World) -> None:
        arming = await begin(world, limit=3, last_used=(1.0, 2.0, 3.0, None, None))
        await asyncio.sleep(10)
        assert armed(world) == NAMES[:3]
        world.supervisor.configure(with_limit(1))
        arming.configure()
        await asyncio.sleep(10)
        assert armed(world) == [NAMES[2]]
        await arming.close()

    run(story)


def test_a_changed_service_is_armed_anew():
    async def story(world: World) -> None:
        arming = await begin(world, last_used=(1.0, None, None, None, None))
        await asyncio.sleep(10)
        changed = Config(settings=Settings(armed_max=2), services=config(tasks_max=9).services)
        world.supervisor.configure(changed)
        arming.configure()
        await asyncio.sleep(10)
        assert armed(world) == [NAMES[0]]
        assert world.units.verbs(NAMES[0]) == ["arm", "stop", "arm"]
        await arming.close()

    run(story)


def test_one_that_cannot_be_armed_is_left_alone_until_its_next_use():
    async def story(world: World) -> None:
        failures: list[TenementError] = []

        async def fail() -> None:
            failures.append(UnitFailed("no"))
            raise failures[-1]

        world.units.script["arm"] = fail
        arming = await begin(world, last_used=(1.0, None, None, None, None))
        await asyncio.sleep(1000)
        assert len(failures) == 1
        del world.units.script["arm"]
        await use(world, NAMES[0])
        await asyncio.sleep(10)
        assert armed(world) == [NAMES[0]]
        await arming.close()

    run(story)


def test_at_most_half_of_the_time_is_spent_arming():
    async def story(world: World) -> None:
        arming = await begin(world, limit=5, last_used=(1.0, 2.0, 3.0, 4.0, 5.0))
        # 0.05 s of arming for each, and as long a pause after it.
        await asyncio.sleep(0.3)
        assert len(armed(world)) == 3
        await asyncio.sleep(0.3)
        assert len(armed(world)) == 5
        await arming.close()

    run(story)
