"""The tenant's state machine: single stories, then any interleaving of events (hypothesis)."""

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tenement.lifecycle import (
    ADOPTION,
    Abandon,
    Action,
    Adopt,
    CancelOperation,
    Cover,
    Denial,
    Deny,
    Died,
    Done,
    Enable,
    Enqueue,
    Failed,
    Goal,
    Grant,
    Hold,
    Lease,
    Leave,
    Lifecycle,
    Operate,
    Policy,
    Prepare,
    Release,
    Restarted,
    Revoke,
    SlotGranted,
    State,
    Tick,
    Unhold,
    Verb,
    WorkerGone,
)

ADDRESS = "127.0.0.1:20001"
STAND_IN = "127.0.0.1:20002"
POLICY = Policy(idle_timeout_s=100, freeze_timeout_s=10, drain_timeout_s=30)


def verbs(actions: list[Action]) -> list[Verb]:
    return [action.verb for action in actions if isinstance(action, Operate)]


def running(policy: Policy = POLICY, worker: str = ":1.1") -> Lifecycle:
    """A tenant that was woken by `worker`, which still holds its lease."""
    tenant = Lifecycle(policy)
    tenant.step(Lease(1, worker), 0)
    tenant.step(SlotGranted(), 0)
    tenant.step(Done(tenant.op, ADDRESS), 1)
    assert tenant.state is State.RUNNING
    return tenant


def test_many_callers_share_one_start():
    tenant = Lifecycle(POLICY)
    assert tenant.step(Lease(1, "a"), 0) == [Enqueue()]
    assert tenant.step(Lease(2, "b"), 0) == []
    assert verbs(tenant.step(SlotGranted(), 0)) == [Verb.START]
    assert tenant.step(Lease(3, "a"), 0) == []
    grants = tenant.step(Done(tenant.op, ADDRESS), 1)
    assert grants == [Grant(ticket, ADDRESS, tenant.generation) for ticket in (1, 2, 3)]
    assert tenant.leases == {"a", "b"}


def test_a_start_nobody_waits_for_any_more_does_not_happen():
    tenant = Lifecycle(POLICY)
    tenant.step(Lease(1, "a"), 0)
    tenant.step(Abandon(1), 0)
    assert tenant.state is State.ASLEEP
    assert tenant.step(SlotGranted(), 0) == []


def test_idle_tenant_freezes_then_stops_but_is_thawed_first():
    tenant = running()
    tenant.step(Release(":1.1", tenant.generation), 5)
    assert tenant.deadline() == 15
    assert tenant.step(Tick(), 14.9) == []
    assert verbs(tenant.step(Tick(), 15)) == [Verb.FREEZE]
    tenant.step(Done(tenant.op), 15)
    assert tenant.state is State.FROZEN and tenant.deadline() == 105
    assert verbs(tenant.step(Tick(), 105)) == [Verb.THAW]
    assert verbs(tenant.step(Done(tenant.op), 105)) == [Verb.STOP]
    tenant.step(Done(tenant.op), 106)
    assert tenant.state is State.ASLEEP and tenant.deadline() is None


def test_request_to_a_frozen_tenant_thaws_it_and_keeps_its_generation():
    tenant = running()
    tenant.step(Release(":1.1", tenant.generation), 5)
    tenant.step(Tick(), 15)
    tenant.step(Done(tenant.op), 15)
    before = tenant.generation
    assert verbs(tenant.step(Lease(9, "b"), 20)) == [Verb.THAW]
    assert tenant.step(Done(tenant.op), 20) == [Grant(9, ADDRESS, before)]


def test_lease_during_freezing_is_granted_only_after_the_thaw():
    tenant = running()
    tenant.step(Release(":1.1", tenant.generation), 5)
    tenant.step(Tick(), 15)
    assert tenant.step(Lease(2, "b"), 15) == []
    assert verbs(tenant.step(Done(tenant.op), 15)) == [Verb.THAW]
    assert tenant.step(Done(tenant.op), 15) == [Grant(2, ADDRESS, tenant.generation)]


def test_stop_drains_revokes_and_starts_again_for_those_who_wait():
    tenant = running()
    generation = tenant.generation
    assert tenant.step(Leave(Goal.SLEEP, "stopped"), 2) == [Revoke(generation, "stopped")]
    assert tenant.state is State.DRAINING and tenant.deadline() == 32
    assert tenant.step(Lease(2, ":1.1"), 3) == []
    assert verbs(tenant.step(Release(":1.1", generation), 4)) == [Verb.STOP]
    assert tenant.step(Done(tenant.op), 5) == [Enqueue()]


def test_connections_that_idleness_ignores_get_notice_before_a_stop_and_a_freeze():
    tenant = running(Policy(idle_timeout_s=100, freeze_timeout_s=10, drain_timeout_s=30, notice_s=0.1))
    tenant.step(Release(":1.1", tenant.generation), 5)
    frozen = tenant.step(Tick(), 15)
    assert frozen[0] == Revoke(tenant.generation, "frozen") and verbs(frozen) == [Verb.FREEZE]
    tenant.step(Done(tenant.op), 15)
    tenant.step(Tick(), 105)
    assert tenant.step(Done(tenant.op), 105) == [Revoke(tenant.generation, "asleep")]
    assert tenant.deadline() == pytest.approx(105.1)
    assert verbs(tenant.step(Tick(), 105.1)) == [Verb.STOP]


def test_drain_ends_at_its_deadline():
    tenant = running()
    tenant.step(Leave(Goal.SLEEP, "stopped"), 2)
    assert tenant.step(Tick(), 31.9) == []
    assert verbs(tenant.step(Tick(), 32)) == [Verb.STOP]


def test_crash_voids_leases_and_waiters_get_the_next_start():
    tenant = running()
    generation = tenant.generation
    actions = tenant.step(Died("killed by signal 9", restarts=True), 5)
    assert Revoke(generation, "killed by signal 9") in actions
    assert tenant.state is State.BACKOFF and not tenant.leases
    assert tenant.step(Lease(2, "b"), 6) == []
    assert verbs(tenant.step(Restarted(), 7)) == [Verb.WATCH]
    assert tenant.step(Done(tenant.op, ADDRESS), 8) == [Grant(2, ADDRESS, generation + 1)]
    assert tenant.step(Release(":1.1", generation), 9) == [] and tenant.leases == {"b"}


def test_unit_that_dies_frozen_is_stopped_and_started_for_who_waits():
    tenant = running()
    tenant.step(Release(":1.1", tenant.generation), 5)
    tenant.step(Tick(), 15)
    tenant.step(Done(tenant.op), 15)
    assert tenant.state is State.FROZEN
    assert verbs(tenant.step(Died("killed by SIGKILL", restarts=True), 20)) == [Verb.STOP]
    assert tenant.step(Lease(2, "b"), 20) == []
    assert tenant.step(Done(tenant.op), 21) == [Enqueue()]


def test_app_that_exits_at_once_fails_every_waiting_caller_at_once():
    tenant = Lifecycle(POLICY)
    tenant.step(Lease(1, "a"), 0)
    tenant.step(Lease(2, "b"), 0)
    tenant.step(SlotGranted(), 0)
    actions = tenant.step(Died("exited with status 1", restarts=True), 0.1)
    assert [a.ticket for a in actions if isinstance(a, Deny)] == [1, 2]
    assert tenant.state is State.BACKOFF


def test_past_the_limit_it_fails_fast_until_the_backoff_is_over():
    tenant = running()
    tenant.step(Died("start limit hit", restarts=False, retry_after_s=60), 5)
    assert tenant.state is State.FAILED
    (deny,) = tenant.step(Lease(2, "b"), 10)
    assert isinstance(deny, Deny) and deny.denial is Denial.START_FAILED and deny.retry_after_s == 55
    assert tenant.step(Lease(3, "b"), 65) == [Enqueue()]


def test_start_that_takes_too_long_is_a_timeout_and_its_unit_is_stopped():
    tenant = Lifecycle(POLICY)
    tenant.step(Lease(1, "a"), 0)
    tenant.step(SlotGranted(), 0)
    actions = tenant.step(Failed(tenant.op, "not ready within 30 s", timed_out=True, retry_after_s=1), 30)
    assert Deny(1, Denial.START_TIMEOUT, "not ready within 30 s", 1) in actions
    assert verbs(actions) == [Verb.STOP]
    tenant.step(Done(tenant.op), 31)
    assert tenant.state is State.FAILED and tenant.reason == "not ready within 30 s"


def test_result_of_an_overtaken_operation_is_ignored():
    tenant = Lifecycle(POLICY)
    tenant.step(Lease(1, "a"), 0)
    tenant.step(SlotGranted(), 0)
    stale = tenant.op
    assert CancelOperation() in tenant.step(Died("exited with status 1", restarts=True), 0.1)
    assert tenant.step(Done(stale, ADDRESS), 0.2) == []
    assert tenant.state is State.BACKOFF


def test_armed_tenant_is_fired_by_a_request_and_disarmed_by_a_stop():
    tenant = Lifecycle(POLICY)
    assert verbs(tenant.step(Prepare(), 0)) == [Verb.ARM]
    tenant.step(Done(tenant.op, ADDRESS), 1)
    assert tenant.state is State.ARMED
    assert verbs(tenant.step(Lease(1, "a"), 2)) == [Verb.FIRE]
    tenant.step(Done(tenant.op, ADDRESS), 3)
    tenant.step(Leave(Goal.SLEEP, "stopped"), 4)
    tenant.step(Release("a", tenant.generation), 5)
    tenant.step(Done(tenant.op), 6)
    tenant.step(Prepare(), 7)
    tenant.step(Done(tenant.op, ADDRESS), 8)
    assert verbs(tenant.step(Leave(Goal.SLEEP, "configuration changed"), 9)) == [Verb.STOP]


def test_gate_that_died_leaves_the_tenant_asleep():
    tenant = Lifecycle(POLICY)
    tenant.step(Prepare(), 0)
    tenant.step(Done(tenant.op, ADDRESS), 1)
    tenant.step(Died("killed", restarts=False), 2)
    assert tenant.state is State.ASLEEP
    assert tenant.step(Lease(1, "a"), 3) == [Enqueue()]


def test_disabled_tenant_denies_and_enable_lets_it_wake():
    tenant = running()
    tenant.step(Leave(Goal.DISABLE, "disabled"), 1)
    tenant.step(Release(":1.1", tenant.generation), 1)
    tenant.step(Done(tenant.op), 2)
    assert tenant.state is State.DISABLED
    (deny,) = tenant.step(Lease(2, "a"), 3)
    assert isinstance(deny, Deny) and deny.denial is Denial.DISABLED
    tenant.step(Enable(), 4)
    assert tenant.step(Lease(3, "a"), 5) == [Enqueue()]


def test_adopted_unit_counts_as_leased_until_the_workers_had_their_time():
    tenant = Lifecycle(POLICY)
    tenant.step(Adopt(State.RUNNING, ADDRESS), 0)
    tenant.step(Leave(Goal.SLEEP, "stopped"), 0)
    assert tenant.state is State.DRAINING
    assert verbs(tenant.step(Release(ADOPTION, tenant.generation), 2)) == [Verb.STOP]


def test_stop_during_a_start_does_not_wait_for_the_app():
    tenant = Lifecycle(POLICY)
    tenant.step(Lease(1, ""), 0)
    tenant.step(SlotGranted(), 0)
    tenant.step(Abandon(1), 1)
    assert verbs(tenant.step(Leave(Goal.SLEEP, "stopped"), 1)) == [Verb.STOP]


def test_illegal_transition_is_refused():
    tenant = Lifecycle(POLICY)
    with pytest.raises(AssertionError, match="asleep -> running"):
        tenant._become(State.RUNNING, 0)


WORKERS = st.sampled_from(["w1", "w2", "w3"])


class AnyInterleaving(RuleBasedStateMachine):
    """Workers that keep the protocol, a unit that may do anything, an operator in a hurry.

    The model knows which requests are really in flight; the machine under test must never stop or freeze
    under them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.tenant = Lifecycle(POLICY)
        self.tickets = itertools.count(1)
        self.open_tickets: dict[int, str] = {}
        self.held: dict[str, int] = {}
        self.covered: dict[str, int] = {}
        self.operation: Operate | None = None
        self.enqueued = False
        self.unit_alive = False

    def feed(self, event: object) -> None:
        for action in self.tenant.step(event, self.now):  # type: ignore[arg-type]
            self.carry_out(action)

    def carry_out(self, action: Action) -> None:
        match action:
            case Operate(verb, _, generation):
                assert self.operation is None, "two operations at once"
                assert generation == self.tenant.generation
                if verb in (Verb.STOP, Verb.FREEZE, Verb.START, Verb.ARM):
                    in_flight = [worker for worker, held in self.held.items() if held == generation]
                    drained = verb is Verb.STOP and self.deadline_passed
                    assert not in_flight or drained, f"{verb} under {in_flight}"
                self.operation = action
            case CancelOperation():
                self.operation = None
            case Enqueue():
                self.enqueued = True
            case Grant(ticket, address, generation):
                worker = self.open_tickets.pop(ticket)
                if address == STAND_IN:
                    assert self.tenant.held and self.tenant.cover == STAND_IN
                    assert generation == self.tenant.cover_generation != self.tenant.generation
                    if worker:
                        self.covered[worker] = generation
                    return
                assert self.tenant.state is State.RUNNING and self.unit_alive
                assert address == ADDRESS and generation == self.tenant.generation
                if worker:
                    self.held[worker] = generation
            case Deny(ticket):
                self.open_tickets.pop(ticket)

    deadline_passed = False

    @rule(worker=WORKERS)
    def request(self, worker: str) -> None:
        if self.held.get(worker) == self.tenant.generation and self.tenant.state is State.RUNNING:
            return
        ticket = next(self.tickets)
        self.open_tickets[ticket] = worker
        self.feed(Lease(ticket, worker))

    @rule()
    def command_line_start(self) -> None:
        ticket = next(self.tickets)
        self.open_tickets[ticket] = ""
        self.feed(Lease(ticket, ""))

    @precondition(lambda self: self.open_tickets)
    @rule(data=st.data())
    def caller_gives_up(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.open_tickets)))
        del self.open_tickets[ticket]
        self.feed(Abandon(ticket))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), dies=st.booleans())
    def request_ends(self, data: st.DataObject, dies: bool) -> None:
        worker = data.draw(st.sampled_from(sorted(self.held)))
        generation = self.held.pop(worker)
        if dies:
            self.covered.pop(worker, None)
            for ticket in [t for t, w in self.open_tickets.items() if w == worker]:
                del self.open_tickets[ticket]
            self.feed(WorkerGone(worker))
        else:
            self.feed(Release(worker, generation))

    @precondition(lambda self: not self.tenant.held)
    @rule()
    def a_change_begins(self) -> None:
        self.feed(Hold())

    @precondition(lambda self: self.tenant.held)
    @rule()
    def whoever_changes_it_starts_it(self) -> None:
        ticket = next(self.tickets)
        self.open_tickets[ticket] = ""
        self.feed(Lease(ticket, "", through=True))

    @precondition(lambda self: self.tenant.held and self.tenant.cover is None and not self.covered)
    @rule()
    def a_stand_in_is_ready(self) -> None:
        self.feed(Cover(STAND_IN))

    @precondition(lambda self: self.tenant.cover)
    @rule()
    def the_stand_in_dies(self) -> None:
        self.covered.clear()
        self.feed(Cover(None))

    @precondition(lambda self: self.covered)
    @rule(data=st.data())
    def request_to_the_stand_in_ends(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.covered)))
        self.feed(Release(worker, self.covered.pop(worker)))

    @precondition(lambda self: self.tenant.held)
    @rule()
    def the_change_ends(self) -> None:
        self.feed(Unhold())

    @precondition(lambda self: self.enqueued)
    @rule()
    def slot(self) -> None:
        self.enqueued = False
        self.feed(SlotGranted())

    @precondition(lambda self: self.operation is not None)
    @rule()
    def operation_succeeds(self) -> None:
        operation, self.operation = self.operation, None
        assert operation is not None
        if operation.verb in (Verb.START, Verb.FIRE, Verb.WATCH, Verb.ARM):
            self.unit_alive = True
        if operation.verb is Verb.STOP:
            self.unit_alive = False
            self.held.clear()
        needs_address = operation.verb in (Verb.START, Verb.FIRE, Verb.WATCH, Verb.ARM)
        self.feed(Done(operation.op, ADDRESS if needs_address else None))

    @precondition(lambda self: self.operation is not None)
    @rule(timed_out=st.booleans())
    def operation_fails(self, timed_out: bool) -> None:
        operation, self.operation = self.operation, None
        assert operation is not None
        if operation.verb is Verb.STOP:
            self.unit_alive = False
            self.held.clear()
        self.feed(Failed(operation.op, "broken", timed_out, retry_after_s=5))

    @rule(restarts=st.booleans(), clean=st.booleans())
    def unit_dies(self, restarts: bool, clean: bool) -> None:
        if self.tenant.state in (State.ASLEEP, State.QUEUED, State.FAILED, State.DISABLED, State.GONE):
            return
        if self.tenant.state is not State.STOPPING:
            self.unit_alive = False
            self.held.clear()
        self.feed(Died("died", restarts, clean and not restarts, retry_after_s=5))

    @precondition(lambda self: self.tenant.state is State.BACKOFF)
    @rule()
    def systemd_restarts(self) -> None:
        self.feed(Restarted())

    @rule(goal=st.sampled_from([Goal.SLEEP, Goal.DISABLE, Goal.FORGET]))
    def operator(self, goal: Goal) -> None:
        self.feed(Leave(goal, "operator"))

    @rule()
    def enable(self) -> None:
        self.feed(Enable())

    @rule()
    def arm(self) -> None:
        self.feed(Prepare())

    @rule(seconds=st.sampled_from([0.1, 5, 30, 200]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        drain_at = self.tenant.drain_at
        self.deadline_passed = drain_at is not None and self.now >= drain_at
        self.feed(Tick())
        self.deadline_passed = False

    @invariant()
    def nobody_is_forgotten(self) -> None:
        assert set(self.tenant.callers) == set(self.open_tickets)
        assert self.tenant.held or not self.tenant.held_back
        if self.tenant.cover is not None:
            assert not self.tenant.held_back, "a covered tenant keeps nobody waiting"
        if self.tenant.waiting:
            pending = self.operation is not None or self.enqueued
            assert pending or self.tenant.state in (State.BACKOFF, State.DRAINING)

    @invariant()
    def the_stand_in_is_counted_as_used_by_whom_it_is(self) -> None:
        assert self.tenant.cover_leases == set(self.covered)

    @invariant()
    def a_timed_state_has_a_deadline_in_the_future(self) -> None:
        deadline = self.tenant.deadline()
        assert deadline is None or deadline > self.now
        if self.tenant.idle:
            assert deadline is not None


AnyInterleaving.TestCase.settings = settings(max_examples=300, stateful_step_count=60, deadline=None)
TestAnyInterleaving = AnyInterleaving.TestCase
