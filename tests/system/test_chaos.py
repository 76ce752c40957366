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


@dataclass(frozen=True, slots=True)
class Blow:
    """Something that was killed; it may have fallen at any time in between."""

    kind: str
    tenant: str
    began: float
    ended: float

    def excuses(self, record: Record) -> bool:
        """Whether a request that was in flight to what was killed may have broken for this."""
        if record.began > self.ended or record.ended < self.began:
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

    asyncio.run(story())
    unexcused = [record for record in tally.wrong if not any(blow.excuses(record) for blow in blows)]
    kinds = [blow.kind for blow in blows]
    assert not unexcused, (tally.summary(), kinds, unexcused[:5])
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


def test_a_full_disk_stops_no_tenant_and_is_told_to_the_operator(box: Box, tenant: NewTenant) -> None:
    """The registry cannot be written: what exists goes on sleeping and waking, what is new is refused."""
    box.write_config("h7", toml("full", idle_timeout=0.1))
    app, new = Tenant(box, tenant("full")), Tenant(box, tenant("full"))
    box.run(["ten", "spawn", app.name])
    directory = "/var/lib/tenement-manager"
    box.run("systemctl stop tenement-manager")
    size = int(box.run(f"du -sk --apparent-size {directory}").stdout.split()[0])
    box.run(
        f"cp -a {directory} /run/registry-copy"
        f" && mount -t tmpfs -o size={size + 256}k,mode=0700 tmpfs {directory}"
        f" && cp -a /run/registry-copy/. {directory} && systemctl start tenement-manager"
    )
    try:
        box.run(f"dd if=/dev/zero of={directory}/filler bs=4k 2>/dev/null; true")
        for _ in range(3):
            assert app.get().count == 1
            app.wait("asleep", "armed")
        refused = box.run(["ten", "spawn", new.name], check=False)
        assert refused.returncode != 0
        assert "disk is full" in refused.stderr, refused.stderr
        assert box.run(["ten", "disable", app.name], check=False).returncode != 0
        assert app.get().count >= 1, "disabled, though that could not be kept"
        box.run(f"rm {directory}/filler")
        box.run(["ten", "spawn", new.name])
        assert new.get().count == 1
        box.run("systemctl restart tenement-manager")
        assert app.get().count >= 1
        assert new.get().count >= 1
    finally:
        box.run(
            f"systemctl stop tenement-manager; rm -rf /run/registry-copy {directory}/filler;"
            f" cp -a {directory} /run/registry-copy; umount {directory};"
            f" cp -a /run/registry-copy/. {directory}; rm -rf /run/registry-copy;"
            " systemctl start tenement-manager"
        )


def test_nobody_wakes_up_while_nothing_happens(box: Box, tenant: NewTenant) -> None:
    """Voluntary context switches of manager and workers over some seconds: only the watchdog's."""
    box.write_config("h7", toml("still"))
    app = Tenant(box, tenant("still"))
    box.run(["ten", "spawn", app.name])
    app.get()
    box.run(["ten", "stop", app.name])
    app.wait("armed")
    units = ["tenement-manager", "tenement-proxy@1", "tenement-proxy@2"]
    pids = {
        unit: box.run(["systemctl", "show", "--value", "-p", "MainPID", unit]).stdout.strip()
        for unit in units
    }

    def switches() -> dict[str, int]:
        found = {}
        for unit, pid in pids.items():
            threads = box.run(f"cat /proc/{pid}/task/*/status").stdout
            lines = [line for line in threads.splitlines() if line.startswith("voluntary_ctxt_switches")]
            found[unit] = sum(int(line.split()[1]) for line in lines)
        return found

    # Connections and leases of the request before are given up within these seconds.
    time.sleep(4)
    before = switches()
    time.sleep(5)
    after = switches()
    woke = {unit: after[unit] - before[unit] for unit in units}
    assert max(woke.values()) <= 3, woke
