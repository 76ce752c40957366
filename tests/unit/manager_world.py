"""A supervisor without systemd: units made of a script, and a clock that jumps when nothing else happens."""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tenement.config import Config, Service
from tenement.lifecycle import State
from tenement.manager.ports import Ports
from tenement.manager.supervisor import Supervisor, Tenant
from tenement.manager.units import Instance
from tenement.names import TenantName
from tenement.systemd import SERVICE, UNIT
from tenement.unit_properties import Launch

ALICE, BOB = TenantName("notes", "alice"), TenantName("notes", "bob")
START_S, STOP_S = 0.05, 0.01


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still while something happens and jumps to the next timer otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0
        loop = self

        class Selector(selectors.SelectSelector):
            def select(self, timeout: float | None = None) -> Any:
                found = super().select(0)
                if found or timeout == 0:
                    return found
                if timeout is None:
                    # Nothing is timed: only a thread can go on, and soon.
                    found = super().select(2)
                    assert found, "everything waits for something that never comes"
                    return found
                loop.now += timeout
                return []

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


class FakeUnits:
    """Units as the supervisor knows them. `script` may delay or fail an operation; `log` has all of them."""

    def __init__(self) -> None:
        self.log: list[tuple[str, TenantName]] = []
        self.script: dict[str, Callable[[], Awaitable[None]]] = {}
        self.ports = Ports()
        self.up: set[TenantName] = set()
        self.starting = 0
        self.most_starting = 0
        self.killed = asyncio.Event()

    def close(self) -> None:
        """Has nothing to close."""

    def verbs(self, name: TenantName = ALICE) -> list[str]:
        return [verb for verb, who in self.log if who == name]

    def instance(
        self, name: TenantName, service: Service, generation: int, host: str, **options: Any
    ) -> Instance:
        launch = Launch(generation, self.ports.take(), options["armed"])
        return Instance(name, service, launch, host)

    async def _do(self, verb: str, name: TenantName, seconds: float) -> None:
        self.log.append((verb, name))
        if verb in self.script:
            await self.script[verb]()
        await asyncio.sleep(seconds)

    async def start(self, instance: Instance, facts: object) -> None:
        self.starting += 1
        self.most_starting = max(self.most_starting, self.starting)
        try:
            assert instance.name not in self.up, "started twice"
            self.up.add(instance.name)
            await self._do("start", instance.name, START_S)
        finally:
            self.starting -= 1

    async def arm(self, instance: Instance) -> None:
        assert instance.name not in self.up, "armed while up"
        self.up.add(instance.name)
        await self._do("arm", instance.name, START_S)

    async def fire(self, instance: Instance, facts: object) -> None:
        await self._do("fire", instance.name, 0.001)

    async def watch(self, instance: Instance, facts: object) -> None:
        await self._do("watch", instance.name, START_S)

    async def freeze(self, name: TenantName) -> None:
        await self._do("freeze", name, 0.001)

    async def thaw(self, name: TenantName) -> None:
        await self._do("thaw", name, 0.001)

    async def stop(self, name: TenantName, service: Service | None) -> None:
        await self._do("stop", name, STOP_S)
        self.up.discard(name)

    async def kill(self, name: TenantName, signal: int) -> None:
        self.log.append(("kill", name))
        self.killed.set()

    def clean_up(self, instance: Instance) -> None:
        if instance.launch.port is not None:
            self.ports.give_back(instance.launch.port)

    def remove_files(self, name: TenantName) -> None:
        pass

    async def forget_failure(self, name: TenantName) -> None:
        self.log.append(("forget_failure", name))

    def offer_memory(self, name: TenantName) -> None:
        pass


@dataclass
class World:
    """A supervisor and all that it touches."""

    units: FakeUnits = field(default_factory=FakeUnits)
    revoked_: list[tuple[TenantName, int, str]] = field(default_factory=list)
    states: dict[TenantName, list[State]] = field(default_factory=dict)
    listeners: list[Any] = field(default_factory=list)
    supervisor: Supervisor = None  # type: ignore[assignment]

    def begin(self, concurrent_starts: int = 4, **settings: Any) -> Supervisor:
        self.supervisor = Supervisor(
            self.units,  # type: ignore[arg-type]
            config(**settings),
            self,
            concurrent_starts,
        )
        for name in (ALICE, BOB):
            self.add(name)
        return self.supervisor

    def add(self, name: TenantName, **settings: Any) -> Tenant:
        values = {"enabled": True, "weight": 100, "created_at": 0.0, "last_used_at": None, **settings}
        return self.supervisor.add(name, **values)

    def state(self, name: TenantName = ALICE) -> State:
        return self.supervisor.get(name).state

    async def until(self, state: State, name: TenantName = ALICE, timeout_s: float = 1000) -> float:
        """Let time pass until the tenant is in that state; how long it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while self.state(name) is not state:
            assert loop.time() < began + timeout_s, f"still {self.state(name)}"
            await asyncio.sleep(0.005)
        return loop.time() - began

    def systemd_says(self, name: TenantName = ALICE, *, service: dict[str, Any], **unit: Any) -> None:
        """Both announcements of a change, in systemd's order."""
        self.supervisor.unit_changed(name.unit, SERVICE, service)
        self.supervisor.unit_changed(name.unit, UNIT, unit)

    # The supervisor's listener

    def revoked(self, name: TenantName, generation: int, reason: str) -> None:
        self.revoked_.append((name, generation, reason))

    def changed(self, tenant: Tenant, before: State) -> None:
        self.states.setdefault(tenant.name, []).append(tenant.state)
        for listener in self.listeners:
            listener.changed(tenant, before)

    def idle(self, tenant: Tenant) -> None:
        for listener in self.listeners:
            if hasattr(listener, "idle"):
                listener.idle(tenant)

    def may_sleep(self, tenant: Tenant) -> bool:
        return all(each.may_sleep(tenant) for each in self.listeners if hasattr(each, "may_sleep"))


def config(**settings: Any) -> Config:
    """A configuration with the service `notes`."""
    values = {"idle_timeout_s": 60.0, "health_check_interval_s": 0.0, **settings}
    return Config(services={"notes": Service(name="notes", command=("/bin/app",), **values)})


def run(story: Callable[[World], Awaitable[None]]) -> World:
    """Run a story in a new world."""
    world = World()

    async def tell() -> None:
        try:
            await story(world)
        finally:
            await world.supervisor.close()

    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(tell())
    return world
