"""Many requests and many tenants at once, asleep or falling asleep: each is answered, and rightly."""

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator

import pytest

from tenement.client import Client

from .apps import ASLEEP, Tenant, toml
from .apps.load import Tally, Visitor, manager
from .conftest import Box

type NewTenant = Callable[..., str]

REQUESTS = 20_000
CLIENTS = 16
SLEEPS = 200
FROZEN_SPELLS = 20
ARMED = 20


@pytest.fixture
def swarm(box: Box) -> Iterator[Callable[[str, int], list[Tenant]]]:
    """Make tenants by the hundred, asleep; they are removed after the test."""
    made: list[Tenant] = []

    async def spawn(apps: list[Tenant]) -> None:
        async with manager(box) as client:
            for app in apps:
                await client.spawn(app.service, app.id, start=False)

    async def remove() -> None:
        async with manager(box) as client:
            for some in itertools.batched(made, 20, strict=False):
                await asyncio.gather(
                    *(client.remove(app.service, app.id, purge=True) for app in some),
                    return_exceptions=True,
                )

    def make(service: str, count: int) -> list[Tenant]:
        apps = [Tenant(box, f"{service}:s{number}") for number in range(count)]
        made.extend(apps)
        asyncio.run(spawn(apps))
        return apps

    yield make
    asyncio.run(remove())


async def visit_at_once(apps: list[Tenant]) -> Tally:
    """One request to each, on a connection of its own."""
    tally = Tally()
    visitors = [Visitor(tally, number) for number in range(len(apps))]
    await asyncio.gather(*(visitor.visit(app) for visitor, app in zip(visitors, apps, strict=True)))
    for visitor in visitors:
        visitor.leave()
    return tally


@pytest.mark.parametrize("state", ["asleep", "armed"])
def test_two_hundred_requests_at_once_wake_one_sleeper_once(box: Box, tenant: NewTenant, state: str) -> None:
    armed_max = 5 if state == "armed" else 0
    box.write_config("h7", f"[settings]\narmed_max = {armed_max}\n" + toml("crowd"))
    app = Tenant(box, tenant("crowd"))
    box.run(["ten", "spawn", app.name])
    box.run(["ten", "stop", app.name])
    app.wait(state)
    before = len(app.starts())
    tally = asyncio.run(visit_at_once([app] * 200))
    assert not tally.wrong, tally.wrong[:3]
    assert len(tally.invocations) == 1
    # Arming started the armed unit before.
    assert len(app.starts()) == before + (state == "asleep")


def test_two_hundred_sleepers_woken_at_once_all_answer_in_time(
    box: Box, swarm: Callable[[str, int], list[Tenant]]
) -> None:
    box.write_config("h7", "[settings]\narmed_max = 0\n" + toml("herd", startup_timeout=60))
    apps = swarm("herd", 200)
    tally = asyncio.run(visit_at_once(apps))
    assert not tally.wrong, tally.wrong[:3]
    assert len(tally.invocations) == 200
    assert max(record.ended - record.began for record in tally.records) < 60
    began = time.monotonic()
    box.run("systemctl show -p Version; ten ps", timeout_s=10)
    assert time.monotonic() - began < 3


def test_six_hundred_wakes_and_stops_at_once_hit_no_limit_of_the_bus(
    box: Box, swarm: Callable[[str, int], list[Tenant]]
) -> None:
    """Plain units: what is tested is the number of calls, waits and signals, not the sandbox."""
    box.write_config(
        "h7",
        "[settings]\narmed_max = 0\n"
        + toml("host", listen="fd", isolation="process", startup_timeout=120, stop_timeout=5),
    )
    apps = swarm("host", 600)

    async def story() -> tuple[Tally, list[float], list[object]]:
        async with manager(box) as client:
            visits = asyncio.create_task(visit_at_once(apps))
            times = []
            woken = time.monotonic()
            while not visits.done():
                began = time.monotonic()
                assert len(await client.list("host")) == 600
                times.append(time.monotonic() - began)
                await asyncio.sleep(0.5)
            times.append(time.monotonic() - woken)
            stops = [client.stop(app.service, app.id) for app in apps]
            return await visits, times, await asyncio.gather(*stops, return_exceptions=True)

    tally, (*lists_s, all_woken_s), stopped = asyncio.run(story())
    assert not tally.wrong, tally.wrong[:3]
    assert max(lists_s) < all_woken_s / 3, "the manager answered nobody else meanwhile"
    assert stopped == [None] * 600
    log = box.run("journalctl -b -o cat -u dbus -u tenement-manager --since -3min").stdout
    assert "LimitsExceeded" not in log and "increase limits" not in log, log
    assert len(tally.invocations) == 600


class Restless:
    """Puts tenants to sleep under load, and counts how often."""

    def __init__(self, box: Box, apps: list[Tenant]) -> None:
        self._box = box
        self._apps = apps
        self.stops = 0
        self.frozen = 0
        self.armed = 0

    async def stop_some(self, enough: asyncio.Event) -> None:
        """Put tenants that are up to sleep, three at a time, until there were enough."""
        chance = random.Random(7)
        async with manager(self._box) as client:
            while self.stops < SLEEPS + 20:
                rows = await client.list()
                names = {app.name for app in self._apps}
                up = [row for row in rows if row["state"] == "running" and row["tenant"] in names]
                some = chance.sample(up, min(3, len(up)))
                await asyncio.gather(*(client.stop(row["service"], row["id"]) for row in some))
                self.stops += len(some)
                await asyncio.sleep(0.02)
        enough.set()

    async def visit_armed(self, visitor: Visitor, client: Client, count: int) -> None:
        """Put one tenant after the other to sleep, and visit it when it is armed."""
        for app in itertools.islice(itertools.cycle(self._apps), count):
            await client.stop(app.service, app.id)
            while (await client.list(app.name))[0]["state"] != "armed":  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.01)
            self.armed += 1
            await visitor.visit(app)

    async def visit_frozen(self, visitor: Visitor, apps: list[Tenant]) -> None:
        """Visit tenants whenever they are frozen."""
        async with manager(self._box) as client:
            while self.frozen < FROZEN_SPELLS:
                for app in apps:
                    (row,) = await client.list(app.name)
                    if row["state"] == "frozen":
                        self.frozen += 1
                        await visitor.visit(app)
                    elif row["state"] in ASLEEP:
                        await visitor.visit(app)
                await asyncio.sleep(0.02)


def test_twenty_thousand_requests_over_two_hundred_sleeps_are_answered_rightly(
    box: Box, swarm: Callable[[str, int], list[Tenant]]
) -> None:
    box.write_config(
        "h7",
        "[settings]\narmed_max = 6\n"
        + toml("nap", drain_timeout=30)
        + toml("ice", freeze_timeout=0.05, idle_timeout=60),
    )
    naps, ice = swarm("nap", 12), swarm("ice", 8)
    tally = Tally()
    restless = Restless(box, naps)

    async def client(number: int, enough: asyncio.Event) -> None:
        chance = random.Random(number)
        visitor = Visitor(tally, number)
        while len(tally.records) < REQUESTS or not enough.is_set():
            app = chance.choice(naps)
            for _ in range(chance.randint(1, 30)):
                body = chance.randbytes(chance.choice((0, 0, 100, 20_000)))
                await visitor.visit(app, body)
        visitor.leave()

    async def story() -> None:
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(restless.stop_some(enough))
            group.create_task(restless.visit_frozen(Visitor(tally, 0), ice))
            for number in range(1, CLIENTS):
                group.create_task(client(number, enough))
        # Nothing is armed while something starts, so the armed wakes come when the crowd has gone.
        async with manager(box) as calm:
            await restless.visit_armed(Visitor(tally, 0), calm, ARMED)

    asyncio.run(story())
    assert not tally.wrong, (tally.summary(), tally.wrong[:3])
    assert len(tally.records) >= REQUESTS
    assert restless.stops >= SLEEPS
    assert len(tally.invocations) >= SLEEPS, tally.summary()
    assert restless.frozen >= FROZEN_SPELLS
    assert restless.armed >= ARMED
