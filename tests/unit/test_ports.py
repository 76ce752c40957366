"""Ports are given out round and round, and not again soon."""

from hypothesis import given
from hypothesis import strategies as st

from tenement.manager.ports import Ports


def test_a_port_given_back_is_the_last_to_be_given_out_again():
    ports = Ports(20000, 4)
    first = ports.take()
    assert first == 20000
    ports.give_back(first)
    assert [ports.take() for _ in range(5)] == [20001, 20002, 20003, 20000, None]


def test_an_adopted_port_is_taken_and_the_next_ones_come_after_it():
    ports = Ports(20000, 4)
    ports.adopt(20002)
    assert [ports.take() for _ in range(4)] == [20003, 20000, 20001, None]


def test_adopting_the_highest_port_begins_again_at_the_lowest():
    ports = Ports(20000, 3)
    ports.adopt(20002)
    assert ports.take() == 20000


def test_giving_back_what_was_not_taken_does_nothing():
    ports = Ports(20000, 1)
    ports.give_back(20000)
    assert ports.take() == 20000
    assert ports.take() is None


@given(st.lists(st.one_of(st.none(), st.integers(0, 7)), max_size=60), st.sets(st.integers(0, 7)))
def test_no_port_is_ever_held_twice(steps: list[int | None], adopted: set[int]):
    ports = Ports(100, 8)
    for each in adopted:
        ports.adopt(100 + each)
    held = {100 + each for each in adopted}
    for step in steps:
        if step is None:
            port = ports.take()
            assert port not in held
            assert (port is None) == (len(held) == 8)
            if port is not None:
                held.add(port)
        else:
            ports.give_back(100 + step)
            held.discard(100 + step)
