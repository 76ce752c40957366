"""Turns to start: a bounded number, in order."""

import pytest

from tenement.manager.starts import StartQueue
from tenement.names import TenantName


def name(number: int) -> TenantName:
    return TenantName("notes", f"t{number}")


@pytest.fixture
def granted() -> list[TenantName]:
    return []


def test_turns_are_given_in_order_of_arrival_and_never_more_than_the_limit(granted: list[TenantName]):
    queue = StartQueue(2, granted.append)
    for number in range(5):
        queue.enqueue(name(number))
    assert granted == [name(0), name(1)]
    assert len(queue) == 3
    queue.leave(name(1))
    queue.leave(name(0))
    assert granted == [name(0), name(1), name(2), name(3)]


def test_who_leaves_the_queue_is_passed_over(granted: list[TenantName]):
    queue = StartQueue(1, granted.append)
    for number in range(3):
        queue.enqueue(name(number))
    queue.leave(name(1))
    queue.leave(name(0))
    assert granted == [name(0), name(2)]


def test_a_stranger_that_leaves_takes_nobodys_turn(granted: list[TenantName]):
    queue = StartQueue(1, granted.append)
    queue.enqueue(name(0))
    queue.enqueue(name(1))
    queue.leave(name(9))
    queue.leave(name(9))
    assert granted == [name(0)]


def test_asking_twice_is_one_place_in_the_queue(granted: list[TenantName]):
    queue = StartQueue(1, granted.append)
    queue.enqueue(name(0))
    queue.enqueue(name(1))
    queue.enqueue(name(1))
    assert len(queue) == 1
    queue.leave(name(0))
    queue.leave(name(1))
    assert granted == [name(0), name(1)]
    assert queue.quiet


def test_it_is_quiet_only_when_nobody_starts_or_waits(granted: list[TenantName]):
    queue = StartQueue(1, granted.append)
    assert queue.quiet
    queue.enqueue(name(0))
    assert not queue.quiet
    queue.leave(name(0))
    assert queue.quiet


def test_a_higher_limit_takes_effect_with_the_next_change(granted: list[TenantName]):
    queue = StartQueue(1, granted.append)
    for number in range(4):
        queue.enqueue(name(number))
    queue.limit = 3
    queue.leave(name(0))
    assert granted == [name(0), name(1), name(2), name(3)]
