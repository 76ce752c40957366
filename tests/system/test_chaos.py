"""Everything is killed at random under load, and every request is accounted for."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from .apps import Tenant, toml
from .apps.load import Record, Tally, Visitor
from .conftest import Box

type NewTenant = Callable[..., str]

CLIENTS = 6
BLOWS = 14
PAUSE_S = 0.8
# From the end of the command that kills to the end of the process and the closing of its last socket.
DYING_S = 0.1


@dataclass(frozen=True, slots=True)
class Blow:
    """Something that was killed; it may have fallen at any time in between."""

    kind: str
    tenant: str
    began: float
    ended: float

    def excuses(self, record: Record) -> bool:
        """Whether a request that was in flight to what was killed may have broken for this."""
        if record.began > self.ended + DYING_S or record.ended < self.began:
            return False
        if self.kind == "worker":
            return record.outcome in ("ConnectionResetError", "IncompleteReadError", "BrokenPipeError")
        return self.kind == "tenant" and record.tenant == self.tenant and record.outcome == "502"


async def strike(box: Box, kind: str, app: Tenant) -> Blow:
    """Kill something; returns when the command that does it has ended."""
    commands = {
        "manager": "systemctl kill -s KILL --kill-whom=main tenement-manager",
        "worker": f"systemctl kill -s KILL --kill-whom=main tenement-proxy@{random.choice('12')}",
        "tenant": f"systemctl kill -s KILL {app.unit}",
        "dbus": "systemctl restart dbus",
        "reexec": "systemctl daemon-reexec",
    }
    began = time.monotonic()
    # A tenant may be asleep just then, and systemctl may lose the bus it talks through.
    await asyncio.to_thread(box.run, commands[kind], check=False)
    return Blow(kind, app.name, began, time.monotonic())


@asynccontextmanager
async def load(apps: list[Tenant], tally: Tally) -> AsyncIterator[None]:
    """Visitors of all tenants, who pause long enough now and then for tenants to fall asleep."""
    stop = asyncio.Event()

    async def visit(number: int) -> None:
        chance = random.Random(number)
        visitor = Visitor(tally, number)
        while not stop.is_set():
            app = chance.choice(apps)
            for _ in range(chance.randint(1, 20)):
                await visitor.visit(app, chance.randbytes(chance.choice((0, 0, 3000))))
                await asyncio.sleep(0.005)
            await asyncio.sleep(chance.random() * 0.2)
        visitor.leave()

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(visit(number))
        try:
            yield
        finally:
            stop.set()


def test_whatever_is_killed_only_what_was_in_flight_to_it_breaks(box: Box, tenant: NewTenant) -> None:
    box.write_config(
        "h7",
        toml("storm", idle_timeout=0.3, backoff_base_ms=50, backoff_max_ms=200, max_restarts=100)
        + toml("frost", freeze_timeout=0.1, idle_timeout=60, max_restarts=100, backoff_base_ms=50),
    )
    apps = [Tenant(box, tenant(service)) for service in ("storm", "frost") for _ in range(6)]
    box.run(["ten", "spawn", *(app.name for app in apps)])
    tally = Tally()
    blows: list[Blow] = []

    async def story() -> None:
        chance = random.Random(11)
        kinds = ["manager", "worker", "tenant", "dbus", "reexec"]
        order = kinds + chance.choices(kinds, k=BLOWS - len(kinds))
        async with load(apps, tally):
            for kind in order:
                await asyncio.sleep(PAUSE_S * chance.random() + 0.2)
                blows.append(await strike(box, kind, chance.choice(apps)))
            await asyncio.sleep(2)

    try:
        asyncio.run(story())
    finally:
        # It does not come back to a bus that was restarted, and `systemctl reboot` would wait for it.
        box.run("systemctl try-restart systemd-logind", check=False)
    unexcused = [record for record in tally.wrong if not any(blow.excuses(record) for blow in blows)]
    kinds = [blow.kind for blow in blows]
    nearest = [min(blows, key=lambda blow: abs(blow.ended - record.began)) for record in unexcused[:5]]
    assert not unexcused, (tally.summary(), *zip(unexcused[:5], nearest, strict=True))
    assert len(tally.wrong) <= CLIENTS * (kinds.count("worker") + kinds.count("tenant"))
    assert len(tally.records) > 500, tally.summary()

    # What is left is in order: every tenant answers, no unit is left over, nothing has failed.
    for app in apps:
        app.get()
    failed = box.run("systemctl --failed --no-legend --plain").stdout
    assert "tenement" not in failed, failed
    box.run(["ten", "disable", *(app.name for app in apps)])
    for app in apps:
        assert app.processes() == []
