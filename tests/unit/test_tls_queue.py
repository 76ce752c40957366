import itertools

from hypothesis import given
from hypothesis import strategies as st

from tenement.tls.names import Want
from tenement.tls.queue import WEEK_S, Failure, Order, Wait, allowed_at, next_order, pause_s, share

NOW = 1e9
LIMIT = 50


def tenants(count: int) -> list[Want]:
    return [Want(f"t{i}.notes.a.test", "*.notes.a.test", "a.test") for i in range(count)]


def test_a_few_names_get_a_certificate_each():
    assert next_order(tenants(3), {}, {}, LIMIT, NOW) == Order(("t0.notes.a.test",), False, "a.test")


def test_many_names_share():
    order = next_order(tenants(2000), {}, {}, LIMIT, NOW)
    assert isinstance(order, Order)
    assert len(order.names) == 100
    assert share(60, 0, LIMIT) == 5


def test_names_that_belong_together_are_ordered_together():
    base = [Want("a.test", "a.test", "a.test", True, True), Want("*.a.test", "a.test", "a.test", True, True)]
    failed = {"*.a.test": Failure(2, NOW - 1, "")}
    assert next_order(base, failed, {}, LIMIT, NOW) == Order(("a.test", "*.a.test"), True, "a.test")


def test_a_name_that_failed_waits_and_is_then_ordered_alone():
    wants = tenants(200)
    failures = {wants[0].name: Failure(1, NOW + 60, "no")}
    order = next_order(wants, failures, {}, LIMIT, NOW)
    assert isinstance(order, Order)
    assert wants[0].name not in order.names
    assert next_order(wants[:1], failures, {}, LIMIT, NOW) == Wait(NOW + 60)
    assert next_order(wants, failures, {}, LIMIT, NOW + 60) == Order((wants[0].name,), False, "a.test")


def test_nothing_is_ordered_for_nobody():
    assert next_order([], {}, {}, LIMIT, NOW) is None


def test_a_group_at_its_limit_keeps_nobody_else_waiting():
    other = Want("shop.test", "shop.test", "shop.test")
    issued = {"a.test": [NOW - 1] * LIMIT}
    assert next_order([*tenants(2), other], {}, issued, LIMIT, NOW) == Order(
        ("shop.test",), False, "shop.test"
    )
    waits = next_order(tenants(2), {}, issued, LIMIT, NOW)
    assert isinstance(waits, Wait)
    assert waits.until == NOW - 1 + WEEK_S


@given(st.integers(1, 60), st.integers(0, 400))
def test_no_week_has_more_than_the_limit(limit: int, hours: int):
    issued: list[float] = []
    now = NOW
    end = NOW + 3 * WEEK_S
    while now < end:
        at = allowed_at(issued, limit, now)
        if at > now:
            now = max(at, now + 1)
            continue
        issued.append(now)
        now += hours * 60
        assert sum(now - WEEK_S < each <= now for each in issued) <= limit
        if hours == 0 and len(issued) > 2 * limit:
            break


def test_pauses_grow_to_half_a_day():
    pauses = [pause_s(count) for count in range(1, 9)]
    assert 270 <= pauses[0] <= 300
    assert all(b > 0.9 * a for a, b in itertools.pairwise(pauses))
    assert 0.9 * 12 * 3600 <= pauses[-1] <= 12 * 3600
