"""Versions side by side: a new one gets requests once it is healthy, and all of them in one step."""

import collections
import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator

import pytest

from .conftest import Box
from .load import Load
from .versions import install

# As in versions.py, but the version is the tenant's id.
TOML = """
[service.shop]
workdir = "/srv/versions/{id}"
command = "./app"
health = "/health"
startup_timeout = 20
drain_timeout = 5
"""


@pytest.fixture
def shop(box: Box) -> Iterator[str]:
    """A service whose tenants are its versions."""
    install(box, "shop")
    box.write_config("shop", TOML)
    yield "shop"
    box.run('names=$(ten ps -q shop); [ -z "$names" ] || ten rm --purge -y $names', check=False)


def weights(box: Box) -> dict[str, int]:
    return {each["id"]: each["weight"] for each in json.loads(box.run("ten ps --json shop").stdout)}


def test_a_version_that_never_gets_healthy_changes_nothing_for_the_others(box: Box, shop: str) -> None:
    box.run("ten deploy shop:r1")
    with Load(["shop.localhost"], pause_s=0.02) as load:
        failed = box.run("ten deploy shop:sick --timeout 3", check=False)
        assert failed.returncode == 6
        assert "not healthy within 3 s; it is removed again" in failed.stderr
        failed = box.run("ten deploy shop:broken --timeout 3", check=False)
        assert failed.returncode == 6
        assert "this release is broken\n" in failed.stderr, "the last lines are shown"
    assert not load.failures, load.failures[:5]
    assert set(load.answers) == {"r1 r1"}
    assert weights(box) == {"r1": 100}
    assert box.run("ls /var/lib/private/tenement/shop").stdout.split() == ["r1"]


def test_route_moves_all_requests_in_one_step(box: Box, shop: str) -> None:
    box.run("ten deploy shop:r1; ten deploy shop:r2 --weight 0")
    order: list[str] = []
    end = threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=10)
        while not end.is_set():
            connection.request("GET", "/", headers={"Host": "shop.localhost"})
            answer = connection.getresponse()
            order.append(f"{answer.status} {answer.read().decode()}")
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        box.wait_for(lambda: len(order) > 200, 20)
        box.run("ten route shop --from r1 --to r2")
        switched = len(order)
        box.wait_for(lambda: len(order) > switched + 200, 20)
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert set(order) == {"200 r1 r1", "200 r2 r2"}
    # Each of three connections may have had a request under way.
    assert "200 r1 r1" not in order[switched + 10 :]
    assert weights(box) == {"r1": 0, "r2": 100}


def test_a_version_that_cannot_start_gets_no_requests_by_route(box: Box, shop: str) -> None:
    box.run("ten deploy shop:r1; ten spawn --no-start shop:broken; ten weight shop:broken 0")
    assert box.run("ten route shop --from r1 --to broken", check=False).returncode == 6
    assert weights(box) == {"r1": 100, "broken": 0}
    assert box.run("ten route shop --from r1 --to r9", check=False).returncode == 3


def test_a_sleeping_version_with_weight_wakes_and_one_with_none_is_reached_directly(
    box: Box, shop: str
) -> None:
    box.run("ten deploy shop:r1; ten deploy shop:r2; ten weight shop:r1 0; ten stop shop:r2")
    assert box.http("shop.localhost").body == b"r2 r2"
    assert box.http("r1.shop.localhost").body == b"r1 r1"


def test_restarts_under_load_refuse_nothing_and_lose_no_post(box: Box, shop: str) -> None:
    box.write_config("shop", TOML + '[service.shop.env]\nSTARTS_S = "0.5"\n')
    box.run("ten deploy shop:r1")
    sent, failures = 0, []
    end = threading.Event()

    def post() -> None:
        nonlocal sent
        while not end.wait(0.01):
            sent += 1
            answer = box.http("r1.shop.localhost", method="POST", body=f"order {sent}")
            if (answer.status, answer.body.decode()) != (200, f"order {sent}"):
                failures.append(f"{answer.status} {answer.body!r}")

    thread = threading.Thread(target=post)
    with Load(["r1.shop.localhost"], threads=2) as load:
        thread.start()
        for _ in range(10):
            box.run("ten restart shop:r1")
        end.set()
        thread.join()
    assert not failures
    assert not load.failures, load.failures[:5]
    assert sent > 20
    noted = box.run("cat /var/lib/private/tenement/shop/r1/posts").stdout.splitlines()
    assert noted == [f"order {number}" for number in range(1, sent + 1)]


def test_a_request_under_way_is_finished_by_the_version_that_has_it(box: Box, shop: str) -> None:
    box.run("ten deploy shop:r1; ten deploy shop:r2 --weight 0")
    slow: list[bytes] = []
    thread = threading.Thread(target=lambda: slow.append(box.http("shop.localhost", "/slow").body))
    thread.start()
    box.wait_for(lambda: json.loads(box.run("ten ps --json shop:r1").stdout)[0]["leases"] > 0, 10)
    box.run("ten route shop --from r1 --to r2; ten restart shop:r1")
    thread.join()
    assert slow == [b"r1 r1"]
    assert box.http("shop.localhost").body == b"r2 r2"


def test_a_long_request_is_not_cut_before_drain_timeout_and_cut_then(box: Box, shop: str) -> None:
    box.write_config("shop", TOML.replace("drain_timeout = 5", "drain_timeout = 60"))
    box.run("ten deploy shop:r1; ten deploy shop:r2 --weight 0")
    slow: list[tuple[int, bytes]] = []

    def visit() -> None:
        answer = box.http("shop.localhost", "/slow?8")
        slow.append((answer.status, answer.body))

    def begin() -> threading.Thread:
        thread = threading.Thread(target=visit)
        thread.start()
        box.wait_for(lambda: json.loads(box.run("ten ps --json shop:r1").stdout)[0]["leases"] > 0, 10)
        return thread

    thread = begin()
    restart = threading.Thread(target=lambda: box.run("ten restart shop:r1"))
    box.run("ten route shop --from r1 --to r2")
    restart.start()
    assert box.http("shop.localhost").body == b"r2 r2", "the next version at once"
    thread.join()
    restart.join()
    assert slow == [(200, b"r1 r1")]
    box.write_config("shop", TOML.replace("drain_timeout = 5", "drain_timeout = 1"))
    box.run("ten route shop --from r2 --to r1")
    thread = begin()
    began = box.run("date +%s.%N").stdout.strip()
    box.run("ten restart shop:r1")
    thread.join()
    assert slow[1][0] == 503
    log = box.run(f"journalctl -u 'tenement-proxy@*' -o cat -S @{began}").stdout
    assert "shop:r1: cutting 1 requests at the end of drain_timeout" in log


def test_a_sick_version_gets_no_request_until_it_is_well(box: Box, shop: str) -> None:
    box.write_config("shop", TOML + "health_check_interval = 1\n")
    box.run("ten deploy shop:r1 --weight 90; ten deploy shop:r2 --weight 10")
    connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=10)

    def visits(count: int) -> collections.Counter[tuple[int, bytes]]:
        answers: collections.Counter[tuple[int, bytes]] = collections.Counter()
        for _ in range(count):
            answer = ask(connection)
            answers[answer.status, answer.read()] += 1
        return answers

    def state(version: str) -> tuple[str, str | None]:
        (row,) = json.loads(box.run(f"ten ps --json shop:{version}").stdout)
        return row["state"], row["health"]

    box.run("touch /var/lib/private/tenement/shop/r2/ill")
    box.wait_for(lambda: state("r2") != ("running", "healthy"), 10)
    # It is degraded, then killed, and does not get ready again: none of that is seen by a visitor.
    while state("r2")[0] == "running":
        assert visits(100).keys() == {(200, b"r1 r1")}
    assert visits(300).keys() == {(200, b"r1 r1")}
    box.run("rm /var/lib/private/tenement/shop/r2/ill")
    box.wait_for(lambda: state("r2") == ("running", "healthy"), 40)
    # 10 % of 2,000 are 200, and 90 more or less is seven standard deviations.
    assert 110 < visits(2000)[200, b"r2 r2"] < 290
    box.run("ten weight shop:r1 100; ten weight shop:r2 0")
    assert visits(200).keys() == {(200, b"r1 r1")}
    box.run("ten weight shop:r1 0")
    assert {status for status, _ in visits(5)} == {503}


def test_new_weights_are_followed_by_every_worker_within_50_ms(box: Box, shop: str) -> None:
    box.run("ten deploy shop:r1; ten deploy shop:r2 --weight 0")
    versions = itertools.cycle([("r1", "r2"), ("r2", "r1")])
    late = 0
    for before, after in itertools.islice(versions, 10):
        box.run(f"ten route shop --from {before} --to {after}")
        time.sleep(0.05)
        for _ in range(8):  # New connections, so that each worker gets some.
            late += box.http("shop.localhost").body != f"{after} {after}".encode()
    assert late == 0


def ask(connection: http.client.HTTPConnection, **fields: str) -> http.client.HTTPResponse:
    connection.request("GET", "/", headers={"Host": "shop.localhost", **fields})
    return connection.getresponse()


def test_requests_are_shared_by_weight(box: Box, shop: str) -> None:
    box.run("ten deploy shop:r1 --weight 90; ten deploy shop:r2 --weight 10")
    connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=10)
    total = 20_000
    answers = collections.Counter(ask(connection).read() for _ in range(total))
    expected = {b"r1 r1": total * 0.9, b"r2 r2": total * 0.1}
    assert answers.keys() == expected.keys()
    # One degree of freedom: a right split exceeds this once in a million runs.
    assert sum((answers[key] - count) ** 2 / count for key, count in expected.items()) < 23.9


def test_a_sticky_visitor_stays_with_a_version_whatever_restarts(box: Box, shop: str) -> None:
    box.write_config("shop", TOML + "sticky = true\n")
    box.run("ten deploy shop:r1; ten deploy shop:r2")
    seen = set()
    for _ in range(6):
        connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=10)
        first = ask(connection)
        cookie = (first.getheader("Set-Cookie") or "").partition(";")[0]
        version = first.read()
        assert cookie, "no cookie came"
        seen.add((cookie, version))
    box.run("systemctl restart tenement-manager")
    for cookie, version in seen:
        for _ in range(10):
            connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=10)
            assert ask(connection, Cookie=cookie).read() == version
    # A cookie that the proxy did not make counts for nothing.
    forged = cookie[:-1] + ("0" if cookie[-1] != "0" else "1")
    connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=10)
    assert ask(connection, Cookie=forged).getheader("Set-Cookie")
