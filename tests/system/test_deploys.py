"""Versions side by side: a new one gets requests once it is healthy, and all of them in one step."""

import collections
import http.client
import itertools
import json
import re
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from .conftest import Box, Response
from .load import Load
from .versions import install
from .web import call, token

# As in versions.py, but the version is the tenant's id.
TOML = """
[service.shop]
workdir = "/srv/versions/{id}"
command = "./app"
health = "/health"
startup_timeout = 20
drain_timeout = 5
"""


# Longer than the pauses and margins in the machinery, none of which may cut a request.
LONG_S = 8


@pytest.fixture
def shop(box: Box) -> Iterator[str]:
    """A service whose tenants are its versions."""
    install(box, "shop")
    box.write_config("shop", TOML)
    yield "shop"
    box.run('names=$(ten ps -q shop); [ -z "$names" ] || ten rm --purge -y $names', check=False)


def row(box: Box, version: str) -> dict[str, Any]:
    """What `ten ps` says of a version."""
    (found,) = json.loads(box.run(f"ten ps --json shop:{version}").stdout)
    assert isinstance(found, dict)
    return found


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


def test_ten_restarts_at_100_posts_a_second_refuse_none_and_neither_lose_nor_double_one(
    box: Box, shop: str
) -> None:
    box.write_config("shop", TOML + '[service.shop.env]\nSTARTS_S = "0.5"\n')
    box.run("ten deploy shop:r1")
    posts: dict[str, Future[Response]] = {}
    end = threading.Event()

    def post() -> None:
        # One each 10 ms, whatever became of those before: visitors do not wait for each other.
        with ThreadPoolExecutor(400) as visitors:
            while not end.wait(0.01):
                order = f"order {len(posts)}"
                posts[order] = visitors.submit(
                    box.http, "r1.shop.localhost", method="POST", body=order, timeout_s=60
                )

    thread = threading.Thread(target=post)
    thread.start()
    try:
        for _ in range(10):
            box.run("ten restart shop:r1")
    finally:
        end.set()
        thread.join()
    answers = ((order, each.result()) for order, each in posts.items())
    failures = [each for order, each in answers if (each.status, each.body.decode()) != (200, order)]
    assert not failures, failures[:5]
    # Each restart takes more than the half second that the app does.
    assert len(posts) > 300, "no load to speak of"
    noted = box.run("cat /var/lib/private/tenement/shop/r1/posts").stdout.splitlines()
    assert sorted(noted) == sorted(posts)


def test_a_request_under_way_is_finished_by_the_version_that_has_it(box: Box, shop: str) -> None:
    box.run("ten deploy shop:r1; ten deploy shop:r2 --weight 0")
    slow: list[bytes] = []
    thread = threading.Thread(target=lambda: slow.append(box.http("shop.localhost", "/slow").body))
    thread.start()
    box.wait_for(lambda: row(box, "r1")["leases"] > 0, 10)
    box.run("ten route shop --from r1 --to r2; ten restart shop:r1")
    thread.join()
    assert slow == [b"r1 r1"]
    assert box.http("shop.localhost").body == b"r2 r2"


def test_a_long_request_ends_well_while_its_version_is_replaced_and_restarted(box: Box, shop: str) -> None:
    box.write_config("shop", TOML.replace("drain_timeout = 5", "drain_timeout = 60"))
    box.run("ten deploy shop:r1")
    with ThreadPoolExecutor() as pool:
        long = pool.submit(box.http, "shop.localhost", f"/slow?{LONG_S}")
        box.wait_for(lambda: row(box, "r1")["leases"] > 0, 10)
        box.run("ten deploy shop:r2 --weight 0; ten route shop --from r1 --to r2")
        assert box.http("shop.localhost").body == b"r2 r2", "the next version at once"
        restart = pool.submit(box.run, "ten restart shop:r1", timeout_s=LONG_S + 30)
        box.wait_for(lambda: row(box, "r1")["state"] == "draining", 10)
        waiting = pool.submit(box.http, "r1.shop.localhost")
        first = wait({long, waiting}, return_when=FIRST_COMPLETED).done
        assert first == {long}, "what comes after it waits for the restart"
        restart.result()
    assert [(each.result().status, each.result().body) for each in (long, waiting)] == [(200, b"r1 r1")] * 2


def test_a_longer_request_is_cut_at_the_end_of_drain_timeout_and_the_log_says_so(box: Box, shop: str) -> None:
    box.write_config("shop", TOML.replace("drain_timeout = 5", "drain_timeout = 2"))
    box.run("ten deploy shop:r1")
    since = box.run("date +%s.%N").stdout.strip()
    with ThreadPoolExecutor() as pool:
        long = pool.submit(box.http, "shop.localhost", f"/slow?{LONG_S}")
        box.wait_for(lambda: row(box, "r1")["leases"] > 0, 10)
        began = time.monotonic()
        restart = pool.submit(box.run, "ten restart shop:r1")
        assert long.result().status == 503
        assert 2 <= time.monotonic() - began < 5
        restart.result()
    log = box.run(f"journalctl -u 'tenement-proxy@*' -o cat -S @{since}").stdout
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
        found = row(box, version)
        return found["state"], found["health"]

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


def connections_to_every_worker(box: Box) -> list[http.client.HTTPConnection]:
    """Open connections, until each of the proxy's workers has at least one."""
    workers = set(box.run("systemctl show -P MainPID 'tenement-proxy@*'").stdout.split()) - {"0"}
    connections: list[http.client.HTTPConnection] = []

    def all_reached() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=10)
        ask(connection).read()
        connections.append(connection)
        sockets = box.run("ss -Htnp state established sport = :80").stdout
        return workers <= set(re.findall(r"pid=(\d+)", sockets))

    box.wait_for(all_reached, 20)
    return connections


def test_new_weights_are_followed_by_every_worker_within_50_ms(box: Box, shop: str) -> None:
    box.run("ten deploy shop:r1; ten deploy shop:r2 --weight 0")
    visits: list[tuple[float, str]] = []
    end = threading.Event()

    def visit(connection: http.client.HTTPConnection) -> None:
        while not end.wait(0.002):
            began = time.monotonic()
            visits.append((began, ask(connection).read().decode()[:2]))

    threads = [threading.Thread(target=visit, args=(each,)) for each in connections_to_every_worker(box)]
    for thread in threads:
        thread.start()
    rounds: list[tuple[float, float, str]] = []
    try:
        with token(box) as made:
            for before, after in itertools.islice(itertools.cycle([("r1", "r2"), ("r2", "r1")]), 20):
                call(box, made, "PUT", f"/api/instances/shop:{after}/weight", {"weight": 100})
                call(box, made, "PUT", f"/api/instances/shop:{before}/weight", {"weight": 0})
                answered = time.monotonic()
                time.sleep(0.1)
                rounds.append((answered, time.monotonic(), before))
    finally:
        end.set()
        for thread in threads:
            thread.join()
    delays_s: list[float] = []
    for answered, until, before in rounds:
        begun = [(began - answered, version) for began, version in visits if answered < began < until]
        assert begun, "nobody came"
        delays_s.append(max((delay_s for delay_s, version in begun if version == before), default=0.0))
    median_s = statistics.median(delays_s)
    print(f"followed after {median_s * 1000:.1f} ms in the median, {max(delays_s) * 1000:.1f} ms at the most")
    assert max(delays_s) < 0.05


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
