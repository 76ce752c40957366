from hypothesis import given
from hypothesis import strategies as st

from tenement.proxy.limits import Gate, Gates


def test_a_seconds_worth_may_burst_and_then_the_rate_holds():
    gate = Gate(0.0, 5.0)
    assert [gate.take(0.0, 5.0) for _ in range(5)] == [0.0] * 5
    assert gate.take(0.0, 5.0) == 0.2
    assert gate.take(0.2, 5.0) == 0.0


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=200), st.floats(0.5, 50))
def test_no_pattern_of_requests_gets_more_than_the_rate_and_one_burst(pauses: list[float], rate: float):
    gate = Gate(0.0, max(rate, 1.0))
    now = 0.0
    granted = 0
    for pause in pauses:
        now += pause
        granted += gate.take(now, rate) == 0.0
    assert granted <= max(rate, 1.0) + now * rate + 1e-6


def test_gates_that_nobody_uses_are_forgotten_unless_in_use():
    gates = Gates()
    gates.of("notes:alice", 0.0, 1.0).in_flight = 1
    gates.of("notes:bob", 0.0, 1.0)
    gates.sweep(61.0)
    assert list(gates._gates) == ["notes:alice"]
