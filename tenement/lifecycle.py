"""The life of one tenant, as a pure state machine: no I/O, no clock, no D-Bus.

Theory of operation
-------------------
A worker sends bytes to a tenant only while it holds a *lease* on it, and a tenant is stopped, frozen or
replaced only while nobody holds one. Everything here serves that sentence.

The manager feeds events (a lease was asked for, the unit is ready, the unit died, time passed) into
`Lifecycle.step` and carries out the actions that come back. Some actions are *operations* on the unit: start,
fire, watch, arm, freeze, thaw, stop. There is at most one at a time; it has a number, and its result comes
back as an event with that number. A result whose number is not the current one belongs to an operation that
was overtaken (its unit died meanwhile) and is ignored, so a late answer can never act on a newer unit.

Between operations the tenant rests in a *settled* state: asleep, armed, running, frozen, backing off, failed
or disabled. `_settle` is the only place that decides what happens next, from three facts: the goal (somebody
wants the unit gone), the waiting callers, and the time the tenant has been idle. While an operation runs,
facts only accumulate.

A *generation* numbers the starts of a tenant. A lease is on one generation; when the process behind it is
gone the lease is void, and releasing it late does no harm.

A tenant that is *held* is being changed, and its callers wait. It may be *covered* by a stand-in meanwhile, a
second unit that whoever changes the tenant has started and will stop: then they get that one. Leases on it
are of a generation of their own and counted apart.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field


class State(enum.StrEnum):
    """Where a tenant is in its life; the values are what `ten ps` prints."""

    ASLEEP = "asleep"
    QUEUED = "queued"
    ARMING = "arming"
    ARMED = "armed"
    STARTING = "starting"
    RUNNING = "running"
    FREEZING = "freezing"
    FROZEN = "frozen"
    THAWING = "thawing"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"
    DISABLED = "disabled"
    GONE = "gone"


# Every legal change of state. Code decides when; this table decides whether.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.ASLEEP: frozenset({State.QUEUED, State.ARMING, State.DISABLED, State.GONE}),
    State.QUEUED: frozenset({State.STARTING, State.ASLEEP}),
    State.ARMING: frozenset({State.ARMED, State.STOPPING, State.ASLEEP}),
    State.ARMED: frozenset({State.STARTING, State.STOPPING, State.ASLEEP}),
    State.STARTING: frozenset({State.RUNNING, State.STOPPING, State.BACKOFF, State.FAILED, State.ASLEEP}),
    State.RUNNING: frozenset(
        {State.FREEZING, State.DRAINING, State.STOPPING, State.BACKOFF, State.FAILED, State.ASLEEP}
    ),
    State.FREEZING: frozenset({State.FROZEN, State.RUNNING, State.STOPPING, State.FAILED, State.ASLEEP}),
    State.FROZEN: frozenset({State.THAWING, State.STOPPING, State.FAILED, State.ASLEEP}),
    State.THAWING: frozenset({State.RUNNING, State.STOPPING, State.BACKOFF, State.FAILED, State.ASLEEP}),
    State.DRAINING: frozenset({State.STOPPING, State.FAILED, State.ASLEEP}),
    State.STOPPING: frozenset({State.ASLEEP, State.FAILED}),
    State.BACKOFF: frozenset({State.STARTING, State.STOPPING, State.FAILED, State.ASLEEP}),
    State.FAILED: frozenset({State.ASLEEP}),
    State.DISABLED: frozenset({State.ASLEEP, State.GONE}),
    State.GONE: frozenset(),
}

# States in which a process of the app may exist that a request could have reached.
AWAKE = frozenset(
    {
        State.STARTING,
        State.RUNNING,
        State.FREEZING,
        State.FROZEN,
        State.THAWING,
        State.DRAINING,
        State.STOPPING,
    }
)

# An adopted unit counts as leased by this name until the workers had time to lease again what they use.
ADOPTION = "adoption"


class Goal(enum.Enum):
    """Why the unit has to go, and what the tenant is afterwards. A stronger goal replaces a weaker one."""

    SLEEP = 1
    FAIL = 2
    DISABLE = 3
    FORGET = 4


class Denial(enum.Enum):
    """Why a waiting caller got no lease."""

    DISABLED = enum.auto()
    START_FAILED = enum.auto()
    START_TIMEOUT = enum.auto()
    NOT_FOUND = enum.auto()


@dataclass(frozen=True, slots=True)
class Policy:
    """The service's clocks, in seconds. An idle or freeze timeout of 0 means never.

    `notice_s` is not 0 for services whose upgraded connections hold no lease: the workers hear of every stop
    and freeze, and have that long to close such connections properly.
    """

    idle_timeout_s: float = 300.0
    freeze_timeout_s: float = 0.0
    drain_timeout_s: float = 30.0
    notice_s: float = 0.0


# --- events
# ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lease:
    """A caller waits for the tenant. `worker` is the holder-to-be; "" only wants the tenant started.

    `through`: this caller is the one who holds the tenant back from all others (see Hold).
    """

    ticket: int
    worker: str
    through: bool = False


@dataclass(frozen=True, slots=True)
class Abandon:
    """The caller of this ticket no longer waits."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Release:
    """A worker gives its lease back."""

    worker: str
    generation: int


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """A worker left the bus: its leases are void, and it waits for nothing any more."""

    worker: str


@dataclass(frozen=True, slots=True)
class Leave:
    """The unit has to go: somebody asked for it, or a limit did."""

    goal: Goal
    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """From now on callers wait, neither granted nor denied, until Unhold: the tenant is being changed."""


@dataclass(frozen=True, slots=True)
class Cover:
    """While the tenant is held, callers get its stand-in, which is ready at `address`, and need not wait.

    None: the stand-in is gone, and they wait again.
    """

    address: str | None


@dataclass(frozen=True, slots=True)
class Unhold:
    """The change is over: the callers that were held back wait like any others.

    With a reason, it has failed, and they are denied. The leases on a stand-in are revoked.
    """

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Enable:
    """A disabled tenant may start again."""


@dataclass(frozen=True, slots=True)
class SlotGranted:
    """It is this tenant's turn to start."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Arm the tenant, if it is asleep with nothing else to do."""


@dataclass(frozen=True, slots=True)
class Done:
    """The current operation succeeded. `address` is set by those that end in a ready app."""

    op: int
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The current operation failed. `timed_out` tells a start that took too long from one that broke."""

    op: int
    reason: str
    timed_out: bool = False
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Died:
    """The unit's process ended without our asking. `restarts`: systemd will start it again by itself."""

    reason: str
    restarts: bool
    clean: bool = False
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Restarted:
    """systemd started the unit again after a crash."""


@dataclass(frozen=True, slots=True)
class Adopt:
    """A unit of this tenant was found running when the manager started."""

    state: State
    address: str | None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; sent at the time that `Lifecycle.deadline` named."""


Event = (
    Lease
    | Abandon
    | Release
    | WorkerGone
    | Leave
    | Hold
    | Cover
    | Unhold
    | Enable
    | SlotGranted
    | Prepare
    | Done
    | Failed
    | Died
    | Restarted
    | Adopt
    | Tick
)


# --- actions
# ---------------------------------------------------------------------------------------------------------


class Verb(enum.StrEnum):
    """An operation on the unit."""

    START = "start"
    FIRE = "fire"
    WATCH = "watch"
    ARM = "arm"
    FREEZE = "freeze"
    THAW = "thaw"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Operate:
    """Carry out `verb` on the unit of `generation` and answer with Done or Failed of number `op`.

    START: build the unit and wait until the app is ready. FIRE: let the armed unit's gate go and wait until
    ready. WATCH: wait until an app that systemd restarted is ready. ARM: build the unit behind its gate.
    """

    verb: Verb
    op: int
    generation: int


@dataclass(frozen=True, slots=True)
class CancelOperation:
    """The unit under the current operation died; its result is not wanted any more."""


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Ask for a turn to start; answered by SlotGranted."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The caller of `ticket` has the tenant at `address`."""

    ticket: int
    address: str
    generation: int


@dataclass(frozen=True, slots=True)
class Deny:
    """The caller of `ticket` does not get the tenant."""

    ticket: int
    denial: Denial
    reason: str
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Revoke:
    """Tell the workers: no new request on leases of `generation`."""

    generation: int
    reason: str


Action = Operate | CancelOperation | Enqueue | Grant | Deny | Revoke


# --- the machine
# -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Lifecycle:
    """One tenant. Times are in seconds of one monotonic clock, given with every step."""

    policy: Policy
    generation: int = 0
    state: State = State.ASLEEP
    since: float = 0.0
    address: str | None = None
    reason: str | None = None
    goal: Goal | None = None
    leases: set[str] = field(default_factory=set)
    waiting: dict[int, str] = field(default_factory=dict)
    held: bool = False
    held_back: dict[int, str] = field(default_factory=dict)
    # The stand-in of a tenant that is held: where it is, its own generation, and who has a lease on it.
    cover: str | None = None
    cover_generation: int = 0
    cover_leases: set[str] = field(default_factory=set)
    idle_since: float | None = None
    drain_at: float | None = None
    retry_at: float = 0.0
    op: int = 0

    def step(self, event: Event, now: float) -> list[Action]:
        """Take one event in and give back what has to be done for it, in order."""
        actions = list(self._take(event, now))
        actions.extend(self._settle(now))
        return actions

    def deadline(self) -> float | None:
        """When a Tick is due, in the clock of `step`; None while nothing is timed."""
        if self.state is State.DRAINING:
            return self.drain_at
        times = [at for at in (self._freeze_at(), self._sleep_at()) if at is not None]
        return min(times, default=None)

    @property
    def idle(self) -> bool:
        """Whether the app is up, and nobody holds or wants a lease on it."""
        return self.state in (State.RUNNING, State.FROZEN) and not self.leases and not self.callers

    @property
    def callers(self) -> dict[int, str]:
        """Who waits for the tenant, by ticket, held back or not."""
        return self.waiting | self.held_back if self.held_back else self.waiting

    def sleep_due(self, now: float) -> bool:
        """Whether the tenant was idle for so long that a Tick now puts it to sleep."""
        return self.idle and self._due(self._sleep_at(), now)

    # What an event changes. Decisions that depend on several facts are left to _settle.

    def _take(self, event: Event, now: float) -> Iterator[Action]:
        match event:
            case Lease(ticket, worker, through):
                (self.held_back if self.held and not through else self.waiting)[ticket] = worker
                yield from self._grant_cover()
            case Abandon(ticket):
                self.waiting.pop(ticket, None)
                self.held_back.pop(ticket, None)
            case Release(worker, generation):
                if generation == self.generation:
                    self._drop_lease(worker, now)
                elif generation == self.cover_generation:
                    self.cover_leases.discard(worker)
            case WorkerGone(worker):
                self.cover_leases.discard(worker)
                self.waiting = {ticket: who for ticket, who in self.waiting.items() if who != worker}
                self.held_back = {ticket: who for ticket, who in self.held_back.items() if who != worker}
                self._drop_lease(worker, now)
            case Leave(goal, reason):
                if self.goal is None or goal.value > self.goal.value:
                    self.goal = goal
                self.reason = reason
            case Hold():
                self.held = True
                self.held_back, self.waiting = self.waiting, {}
            case Cover(None):
                self.cover_leases.clear()
                yield from self._uncover("died")
            case Cover(address):
                assert self.held
                self.cover, self.cover_generation = address, self._next_generation()
                self.cover_leases.clear()
                yield from self._grant_cover()
            case Unhold(reason):
                self.held = False
                yield from self._uncover("replaced")
                if reason is None:
                    self.waiting |= self.held_back
                else:
                    for ticket in self.held_back:
                        yield Deny(ticket, Denial.START_FAILED, reason, 0.0)
                self.held_back = {}
            case Enable():
                if self.state is State.DISABLED:
                    self._become(State.ASLEEP, now)
                elif self.goal is Goal.DISABLE:
                    self.goal = Goal.SLEEP
            case SlotGranted():
                if self.state is State.QUEUED:
                    self.generation = self._next_generation()
                    self._become(State.STARTING, now)
                    yield self._operate(Verb.START)
            case Prepare():
                if self.state is State.ASLEEP and not self.waiting and self.goal is None and not self.held:
                    self.generation = self._next_generation()
                    self._become(State.ARMING, now)
                    yield self._operate(Verb.ARM)
            case Done(op, address):
                if op == self.op:
                    yield from self._operation_done(address, now)
            case Failed():
                if event.op == self.op:
                    yield from self._operation_failed(event, now)
            case Died():
                yield from self._died(event, now)
            case Restarted():
                if self.state is State.BACKOFF:
                    self.generation = self._next_generation()
                    self._become(State.STARTING, now)
                    yield self._operate(Verb.WATCH)
            case Adopt(state, address):
                yield from self._adopt(state, address, now)
            case Tick():
                pass

    def _operation_done(self, address: str | None, now: float) -> Iterator[Action]:
        match self.state:
            case State.STARTING:
                self.address = address
                self.reason = None
                self._become(State.RUNNING, now)
                self.idle_since = None if self.leases else now
            case State.THAWING:
                self._become(State.RUNNING, now)
            case State.FREEZING:
                self._become(State.FROZEN, now)
            case State.ARMING:
                self.address = address
                self._become(State.ARMED, now)
            case State.STOPPING:
                yield from self._stopped(now)

    def _operation_failed(self, failure: Failed, now: float) -> Iterator[Action]:
        match self.state:
            case State.STARTING:
                denial = Denial.START_TIMEOUT if failure.timed_out else Denial.START_FAILED
                yield from self._deny_all(denial, failure.reason, failure.retry_after_s)
                self.reason = failure.reason
                self.retry_at = now + failure.retry_after_s
                if self.goal is None or self.goal is Goal.SLEEP:
                    self.goal = Goal.FAIL
                # The unit may be half there (started, not ready): it has to be gone before the next try.
                self._become(State.STOPPING, now)
                yield self._operate(Verb.STOP)
            case State.FREEZING:
                # A unit that cannot be frozen goes on running; the idle clock will stop it.
                self._become(State.RUNNING, now)
            case State.THAWING:
                # A frozen unit that does not thaw answers nobody: stop it and start afresh.
                self._become(State.STOPPING, now)
                yield self._operate(Verb.STOP)
            case State.ARMING:
                self.reason = failure.reason
                self._become(State.STOPPING, now)
                yield self._operate(Verb.STOP)
            case State.STOPPING:
                # systemd kills at TimeoutStopSec; a stop that fails found no unit to stop.
                yield from self._stopped(now)

    def _died(self, death: Died, now: float) -> Iterator[Action]:
        if self.state is State.STOPPING or self.state not in AWAKE | {
            State.ARMING,
            State.ARMED,
            State.BACKOFF,
        }:
            return
        if self.state is State.BACKOFF and death.restarts:
            return
        yield CancelOperation()
        self.op += 1
        if self.state in (State.ARMING, State.ARMED):
            self.address = None
            if death.restarts:
                # A gate that systemd put up again is worth nothing: the next request makes a new start.
                self._become(State.STOPPING, now)
                yield self._operate(Verb.STOP)
            else:
                self._become(State.ASLEEP, now)
            return
        self.reason = death.reason
        if self.state is State.STARTING:
            yield from self._deny_all(Denial.START_FAILED, death.reason, death.retry_after_s)
        elif self.leases:
            yield Revoke(self.generation, death.reason)
        draining = self.state is State.DRAINING
        # systemd does not start a unit again that died frozen ("Cannot start frozen unit").
        stuck = death.restarts and self.state in (State.FREEZING, State.FROZEN, State.THAWING)
        early = self.state is State.STARTING
        self._void_leases()
        if draining or stuck:
            if death.restarts:
                self._become(State.STOPPING, now)
                yield self._operate(Verb.STOP)
            else:
                yield from self._stopped(now)
        elif death.restarts:
            self._become(State.BACKOFF, now)
        elif death.clean and not early:
            self._become(State.ASLEEP, now)
        else:
            self.retry_at = now + death.retry_after_s
            self._become(State.FAILED, now)

    def _adopt(self, state: State, address: str | None, now: float) -> Iterator[Action]:
        self.generation = self._next_generation()
        self.address = address
        # Adoption is the birth of this object, not a change of a tenant's state: the table does not apply.
        self.state, self.since = state, now
        if state is State.RUNNING:
            self.leases.add(ADOPTION)
        elif state is State.FROZEN:
            self.idle_since = now
        elif state is State.STARTING:
            # It may be ready, and in use, since before.
            self.leases.add(ADOPTION)
            yield self._operate(Verb.WATCH)
        elif state is State.STOPPING:
            yield self._operate(Verb.STOP)

    # What happens next, decided in settled states only.

    def _settle(self, now: float) -> Iterator[Action]:
        match self.state:
            case State.RUNNING:
                yield from self._settle_running(now)
            case State.FROZEN:
                if self.goal is None and self._due(self._sleep_at(), now):
                    self.goal, self.reason = Goal.SLEEP, None
                if self.goal is not None or self.waiting:
                    # Also before a stop: systemd does not stop a frozen unit.
                    self._become(State.THAWING, now)
                    yield self._operate(Verb.THAW)
            case State.DRAINING:
                if not self.leases and self.drain_at is not None:
                    self.drain_at = min(self.drain_at, now + self.policy.notice_s)
                if self._due(self.drain_at, now):
                    self.drain_at = None
                    self._become(State.STOPPING, now)
                    yield self._operate(Verb.STOP)
            case State.ARMED | State.BACKOFF:
                if self.goal is not None:
                    self._become(State.STOPPING, now)
                    yield self._operate(Verb.STOP)
                elif self.waiting and self.state is State.ARMED:
                    self._become(State.STARTING, now)
                    yield self._operate(Verb.FIRE)
            case State.STARTING:
                if self.goal is not None:
                    yield CancelOperation()
                    self._become(State.STOPPING, now)
                    yield self._operate(Verb.STOP)
            case State.QUEUED:
                if self.goal is not None or not self.waiting:
                    self._become(State.ASLEEP, now)
                    yield from self._settle_asleep(now)
            case State.FAILED:
                yield from self._settle_failed(now)
            case State.ASLEEP:
                yield from self._settle_asleep(now)
            case State.DISABLED:
                if self.goal is Goal.FORGET:
                    yield from self._stopped(now)
                else:
                    self.goal = None
                    yield from self._deny_all(Denial.DISABLED, "disabled by the operator", 0.0)
            case State.GONE:
                yield from self._deny_all(Denial.NOT_FOUND, "removed", 0.0)

    def _settle_running(self, now: float) -> Iterator[Action]:
        if self.goal is None and not self.waiting and self._due(self._sleep_at(), now):
            self.goal, self.reason = Goal.SLEEP, None
        if self.goal is not None:
            if self.leases or self.policy.notice_s:
                yield Revoke(self.generation, self.reason or "asleep")
                self.drain_at = now + (self.policy.drain_timeout_s if self.leases else self.policy.notice_s)
                self._become(State.DRAINING, now)
            else:
                self._become(State.STOPPING, now)
                yield self._operate(Verb.STOP)
        elif self.waiting:
            yield from self._grant_all(now)
        elif self._due(self._freeze_at(), now):
            if self.policy.notice_s:
                yield Revoke(self.generation, "frozen")
            self._become(State.FREEZING, now)
            yield self._operate(Verb.FREEZE)

    def _settle_asleep(self, now: float) -> Iterator[Action]:
        if self.goal is Goal.FORGET or self.goal is Goal.DISABLE:
            yield from self._stopped(now)
            return
        self.goal = None
        if self.waiting:
            self._become(State.QUEUED, now)
            yield Enqueue()

    def _settle_failed(self, now: float) -> Iterator[Action]:
        if self.goal is not None and self.goal is not Goal.FAIL:
            self._become(State.ASLEEP, now)
            yield from self._settle_asleep(now)
            return
        self.goal = None
        if self.waiting:
            if now >= self.retry_at:
                self._become(State.ASLEEP, now)
                yield from self._settle_asleep(now)
            else:
                yield from self._deny_all(
                    Denial.START_FAILED, self.reason or "failed", max(0.0, self.retry_at - now)
                )

    def _stopped(self, now: float) -> Iterator[Action]:
        """No process is left: become what the goal says."""
        self._void_leases()
        goal, self.goal = self.goal, None
        match goal:
            case Goal.FAIL:
                self._become(State.FAILED, now)
            case Goal.DISABLE:
                if self.state is not State.ASLEEP:
                    self._become(State.ASLEEP, now)
                self._become(State.DISABLED, now)
                yield from self._deny_all(Denial.DISABLED, "disabled by the operator", 0.0)
            case Goal.FORGET:
                if self.state not in (State.ASLEEP, State.DISABLED):
                    self._become(State.ASLEEP, now)
                self._become(State.GONE, now)
                yield from self._deny_all(Denial.NOT_FOUND, "removed", 0.0)
            case _:
                if self.state is not State.ASLEEP:
                    self._become(State.ASLEEP, now)

    # Small steps.

    def _operate(self, verb: Verb) -> Operate:
        self.op += 1
        return Operate(verb, self.op, self.generation)

    def _become(self, state: State, now: float) -> None:
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"illegal transition {self.state} -> {state}")
        self.state, self.since = state, now

    def _next_generation(self) -> int:
        return max(self.generation, self.cover_generation) + 1

    def _grant_cover(self) -> Iterator[Action]:
        if self.cover is None:
            return
        for ticket, worker in self.held_back.items():
            if worker:
                self.cover_leases.add(worker)
            yield Grant(ticket, self.cover, self.cover_generation)
        self.held_back.clear()

    def _uncover(self, reason: str) -> Iterator[Action]:
        if self.cover is not None:
            self.cover = None
            yield Revoke(self.cover_generation, reason)

    def _grant_all(self, now: float) -> Iterator[Action]:
        assert self.address is not None
        for ticket, worker in self.waiting.items():
            if worker:
                self.leases.add(worker)
            yield Grant(ticket, self.address, self.generation)
        self.waiting.clear()
        self.idle_since = None if self.leases else now

    def _deny_all(self, denial: Denial, reason: str, retry_after_s: float) -> Iterator[Action]:
        for ticket in self.waiting:
            yield Deny(ticket, denial, reason, retry_after_s)
        self.waiting.clear()

    def _drop_lease(self, worker: str, now: float) -> None:
        if worker in self.leases:
            self.leases.discard(worker)
            if not self.leases and self.state is State.RUNNING:
                self.idle_since = now

    def _void_leases(self) -> None:
        self.leases.clear()
        self.address = None
        self.idle_since = None
        self.drain_at = None

    def _freeze_at(self) -> float | None:
        if self.state is not State.RUNNING or self.idle_since is None or not self.policy.freeze_timeout_s:
            return None
        return self.idle_since + self.policy.freeze_timeout_s

    def _sleep_at(self) -> float | None:
        if self.idle_since is None or not self.policy.idle_timeout_s:
            return None
        if self.state not in (State.RUNNING, State.FROZEN):
            return None
        return self.idle_since + self.policy.idle_timeout_s

    @staticmethod
    def _due(at: float | None, now: float) -> bool:
        return at is not None and now >= at
