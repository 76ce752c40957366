"""A rollout: the tenants of a service move to another release, a batch at a time. Pure: no I/O, no clock.

Theory of operation
-------------------
A rollout has a stop for each tenant, and each stop takes steps (STEPS below). The manager keeps every step
in its registry before it acts on it, so that a manager that was killed finds what it was about to do, and
does it again: preparing begins afresh from the copy of the data, a start is looked at again, putting back is
repeated.

The first tenants are the canary: these are started, even if they sleep, to see the release work. All others
that sleep are only noted to be on it and wake on it. A batch ends when each of its tenants is done; the next
one begins only if none has failed. A tenant that fails is put back on its former release with its former data
before the rollout stops, so that whatever happens, every tenant is on a release that works for it.
"""

import enum
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tenement.errors import Conflict, InvalidName
from tenement.names import TenantName


class Kind(enum.StrEnum):
    """What a rollout is for: a service, its return to the release before, or one tenant to stay there."""

    ROLLOUT = "rollout"
    ROLLBACK = "rollback"
    PIN = "pin"


class Phase(enum.StrEnum):
    """Where a rollout is as a whole."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ABORTED = "aborted"
    DONE = "done"


class Step(enum.StrEnum):
    """Where a tenant is."""

    WAITING = "waiting"
    PREPARING = "preparing"
    STARTING = "starting"
    REVERTING = "reverting"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


PHASES: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.RUNNING: frozenset({Phase.PAUSED, Phase.STOPPED, Phase.ABORTED, Phase.DONE}),
    Phase.PAUSED: frozenset({Phase.RUNNING, Phase.ABORTED}),
    Phase.STOPPED: frozenset({Phase.RUNNING, Phase.ABORTED}),
    Phase.ABORTED: frozenset(),
    Phase.DONE: frozenset(),
}
"""Every legal change of phase."""

STEPS: Final[dict[Step, frozenset[Step]]] = {
    # Failed without a step in between: its stand-in did not get ready, and nothing was touched.
    Step.WAITING: frozenset({Step.PREPARING, Step.DONE, Step.SKIPPED, Step.FAILED}),
    # To itself: a manager that was killed begins again.
    Step.PREPARING: frozenset({Step.PREPARING, Step.STARTING, Step.REVERTING, Step.SKIPPED}),
    Step.STARTING: frozenset({Step.DONE, Step.REVERTING, Step.SKIPPED}),
    Step.REVERTING: frozenset({Step.REVERTING, Step.FAILED, Step.SKIPPED}),
    Step.DONE: frozenset(),
    Step.FAILED: frozenset({Step.WAITING}),
    Step.SKIPPED: frozenset(),
}
"""Every legal step."""

ACTIVE: Final = frozenset({Step.PREPARING, Step.STARTING, Step.REVERTING})
"""Steps in the middle of which a tenant must not be left."""

_OPEN: Final = frozenset({Phase.RUNNING, Phase.PAUSED, Phase.STOPPED})
_SHARE: Final = re.compile(r"(\d{1,3}(?:\.\d+)?)%|(\d{1,9})")


class Candidate(NamedTuple):
    """A tenant as a rollout looks at it. `used_at` orders them: the most recently used are more telling."""

    name: TenantName
    release: str | None
    awake: bool
    used_at: float


@dataclass(slots=True)
class Stop:
    """One tenant of a rollout. `start`: it was awake before, or is a canary, so it is started."""

    place: int
    target: str
    former: str | None
    canary: bool
    step: Step = Step.WAITING
    start: bool = False
    reason: str | None = None


@dataclass(slots=True)
class Rollout:
    """A rollout of one service. `worked_s` is how long it has been running so far, pauses left out."""

    service: str
    kind: Kind
    target: str
    former: str | None
    batch: int
    pause_after_canary: bool
    started_at: float
    phase: Phase = Phase.RUNNING
    reason: str | None = None
    worked_s: float = 0.0
    stops: dict[TenantName, Stop] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether it goes on or could go on."""
        return self.phase in _OPEN

    @property
    def active(self) -> list[TenantName]:
        """The tenants that are in the middle of their move."""
        return [name for name, stop in self.stops.items() if stop.step in ACTIVE]

    def add(self, candidates: Iterable[Candidate], canary: int) -> list[TenantName]:
        """Take tenants in, the first `canary` of them as canaries; gives those that were not in yet.

        Those that are awake come first, and of these the most recently used: they show soonest what is wrong.
        """
        new = [each for each in candidates if each.name not in self.stops]
        new.sort(key=lambda each: (not each.awake, -each.used_at, each.name))
        for number, each in enumerate(new):
            self.stops[each.name] = Stop(len(self.stops), self.target, each.release, number < canary)
        return [each.name for each in new]

    def next_batch(self) -> list[TenantName]:
        """Whose turn it is now; nobody's if the rollout does not go on."""
        if self.phase is not Phase.RUNNING:
            return []
        waiting = [name for name, stop in self.stops.items() if stop.step is Step.WAITING]
        canaries = [name for name in waiting if self.stops[name].canary]
        return (canaries or waiting)[: self.batch]

    def move(self, name: TenantName, step: Step, reason: str | None = None) -> None:
        """A tenant takes a step."""
        stop = self.stops[name]
        if step not in STEPS[stop.step]:
            raise AssertionError(f"illegal step {stop.step} -> {step}")
        stop.step = step
        stop.reason = reason

    def batch_ended(self) -> None:
        """All tenants of a batch are done: decide how it goes on."""
        if self.phase is not Phase.RUNNING:
            return
        failed = [name for name, stop in self.stops.items() if stop.step is Step.FAILED]
        waiting = [stop for stop in self.stops.values() if stop.step is Step.WAITING]
        if failed:
            self._become(Phase.STOPPED, self.stops[failed[0]].reason)
        elif not waiting:
            self._become(Phase.DONE, None)
        elif self.pause_after_canary and not any(stop.canary for stop in waiting):
            self._become(Phase.PAUSED, "after the canary")

    def resume(self) -> None:
        """Go on; tenants that failed are tried again. Raises Conflict if it does not stand still."""
        if self.phase not in (Phase.PAUSED, Phase.STOPPED):
            raise Conflict(f"{self.service}: the rollout is {self.phase}: nothing to resume")
        if self.phase is Phase.PAUSED:
            self.pause_after_canary = False
        for name, stop in self.stops.items():
            if stop.step is Step.FAILED:
                self.move(name, Step.WAITING)
        self._become(Phase.RUNNING, None)

    def abort(self) -> None:
        """Move nobody else. Raises Conflict if it has ended."""
        if not self.open:
            raise Conflict(f"{self.service}: the rollout is {self.phase}: nothing to abort")
        self._become(Phase.ABORTED, "aborted by the operator")

    def counts(self) -> dict[str, int]:
        """How many tenants are at each step."""
        found = Counter(stop.step for stop in self.stops.values())
        return {str(step): found[step] for step in Step}

    def left_s(self) -> float | None:
        """An estimate of the seconds that are left; None while nothing is known."""
        found = Counter(stop.step for stop in self.stops.values())
        done = found[Step.DONE] + found[Step.FAILED]
        left = len(self.stops) - done - found[Step.SKIPPED]
        return self.worked_s / done * left if done and self.phase is Phase.RUNNING else None

    def _become(self, phase: Phase, reason: str | None) -> None:
        if phase not in PHASES[self.phase]:
            raise AssertionError(f"illegal phase {self.phase} -> {phase}")
        self.phase, self.reason = phase, reason


def canary_count(text: str, total: int) -> int:
    """How many tenants "5%" or "3" are of `total`: one at least, if there are any. Raises InvalidName."""
    found = _SHARE.fullmatch(text)
    if not found or float(found[1] or 0) > 100:
        raise InvalidName.of("canary", text, "must be a number of tenants or a share such as 5%")
    count = math.ceil(total * float(found[1]) / 100) if found[1] else int(found[2])
    return min(max(1, count), total)
