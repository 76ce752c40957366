"""A tenant that is held keeps its callers waiting while it is changed."""

from tenement.lifecycle import (
    Cover,
    Deny,
    Done,
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
    Revoke,
    SlotGranted,
    State,
    Unhold,
    Verb,
    WorkerGone,
)


def running() -> Lifecycle:
    life = Lifecycle(Policy())
    life.step(Lease(1, "w1"), 0.0)
    life.step(SlotGranted(), 0.0)
    life.step(Done(life.op, "127.0.0.1:20000"), 0.0)
    assert (life.state, life.leases) == (State.RUNNING, {"w1"})
    return life


def test_callers_of_a_held_tenant_are_neither_granted_nor_denied_until_the_end() -> None:
    life = running()
    life.step(Hold(), 1.0)
    life.step(Leave(Goal.SLEEP, "moves"), 1.0)
    assert life.state is State.DRAINING
    assert life.step(Lease(2, "w2"), 1.0) == []
    life.step(Release("w1", life.generation), 2.0)
    life.step(Done(life.op), 2.0)
    assert life.state is State.ASLEEP, "the caller does not wake it"
    # Who holds it starts it, and that start fails: nobody else is told.
    assert life.step(Lease(3, "", through=True), 3.0) == [Enqueue()]
    life.step(SlotGranted(), 3.0)
    actions = life.step(Failed(life.op, "broken"), 3.0)
    assert [action.ticket for action in actions if isinstance(action, Deny)] == [3]
    life.step(Done(life.op), 3.0)
    life.step(Leave(Goal.SLEEP, "goes back"), 4.0)
    life.step(Lease(4, "", through=True), 4.0)
    life.step(SlotGranted(), 4.0)
    actions = life.step(Done(life.op, "127.0.0.1:20001"), 4.0)
    assert [action.ticket for action in actions if isinstance(action, Grant)] == [4]
    actions = life.step(Unhold(), 5.0)
    assert [action.ticket for action in actions if isinstance(action, Grant)] == [2]
    assert life.leases == {"w2"}


def test_callers_that_waited_before_the_hold_are_held_back_too() -> None:
    life = Lifecycle(Policy())
    life.step(Lease(1, "w1"), 0.0)
    life.step(SlotGranted(), 0.0)
    life.step(Hold(), 0.0)
    assert not [a for a in life.step(Done(life.op, "x"), 1.0) if isinstance(a, Grant)]
    assert [a.ticket for a in life.step(Unhold(), 2.0) if isinstance(a, Grant)] == [1]


def test_a_hold_that_ends_with_a_reason_denies_them() -> None:
    life = Lifecycle(Policy())
    life.step(Hold(), 0.0)
    life.step(Lease(1, "w1"), 0.0)
    (denied,) = life.step(Unhold("cannot be migrated"), 1.0)
    assert isinstance(denied, Deny)
    assert denied.reason == "cannot be migrated"
    assert life.state is State.ASLEEP


def test_a_held_tenant_is_not_armed_and_forgets_workers_that_left() -> None:
    life = Lifecycle(Policy())
    life.step(Hold(), 0.0)
    assert life.step(Prepare(), 0.0) == []
    life.step(Lease(1, "w1"), 0.0)
    life.step(WorkerGone("w1"), 0.0)
    assert life.step(Unhold(), 1.0) == []
    assert life.state is State.ASLEEP


def test_callers_of_a_sleeping_tenant_start_it_when_the_hold_ends() -> None:
    life = Lifecycle(Policy())
    life.step(Hold(), 0.0)
    life.step(Lease(1, "w1"), 0.0)
    assert life.step(Unhold(), 1.0) == [Enqueue()]
    (start,) = life.step(SlotGranted(), 1.0)
    assert isinstance(start, Operate)
    assert start.verb is Verb.START


def test_callers_of_a_covered_tenant_get_the_stand_in_until_the_hold_ends() -> None:
    life = running()
    old = life.generation
    life.step(Hold(), 1.0)
    assert life.step(Lease(2, "w2"), 1.0) == []
    (grant,) = life.step(Cover("127.0.0.1:20009"), 1.0)
    assert isinstance(grant, Grant)
    assert (grant.ticket, grant.address) == (2, "127.0.0.1:20009")
    assert grant.generation > old, "the old unit's lease is another"
    # The old one drains as ever: w1 still has a lease on it, and gets one on the stand-in besides.
    assert life.step(Leave(Goal.SLEEP, "moves"), 2.0) == [Revoke(old, "moves")]
    assert life.step(Lease(3, "w1"), 2.0) == [Grant(3, "127.0.0.1:20009", grant.generation)]
    assert life.state is State.DRAINING
    (stop,) = life.step(Release("w1", old), 3.0)
    assert isinstance(stop, Operate)
    assert stop.verb is Verb.STOP
    assert life.cover_leases == {"w1", "w2"}
    life.step(Done(life.op), 3.0)
    life.step(Lease(4, "", through=True), 3.0)
    life.step(SlotGranted(), 3.0)
    assert life.generation > grant.generation
    life.step(Done(life.op, "127.0.0.1:20001"), 4.0)
    assert life.step(Unhold(), 5.0) == [Revoke(grant.generation, "replaced")]
    assert life.step(Lease(5, "w1"), 5.0) == [Grant(5, "127.0.0.1:20001", life.generation)]
    life.step(Release("w1", grant.generation), 6.0)
    assert (life.leases, life.cover_leases) == ({"w1"}, {"w2"})
    life.step(WorkerGone("w2"), 6.0)
    assert not life.cover_leases


def test_a_covered_tenant_that_does_not_start_again_is_told_to_who_changes_it_alone() -> None:
    life = running()
    life.step(Hold(), 1.0)
    life.step(Cover("x"), 1.0)
    life.step(Leave(Goal.SLEEP, "moves"), 1.0)
    life.step(Release("w1", life.generation), 1.0)
    life.step(Done(life.op), 1.0)
    life.step(Lease(2, "", through=True), 2.0)
    life.step(SlotGranted(), 2.0)
    denied = [each for each in life.step(Failed(life.op, "broken"), 2.0) if isinstance(each, Deny)]
    assert [each.ticket for each in denied] == [2]
    assert [type(each) for each in life.step(Lease(3, "w1"), 2.0)] == [Grant]


def test_callers_wait_when_the_stand_in_dies() -> None:
    life = running()
    life.step(Hold(), 1.0)
    life.step(Lease(2, "w2"), 1.0)
    life.step(Cover("x"), 1.0)
    generation = life.cover_generation
    assert life.step(Cover(None), 2.0) == [Revoke(generation, "died")]
    assert not life.cover_leases
    assert life.step(Lease(3, "w2"), 2.0) == []
    (granted,) = life.step(Unhold(), 3.0)
    assert isinstance(granted, Grant)
    assert (granted.ticket, granted.generation) == (3, life.generation)
