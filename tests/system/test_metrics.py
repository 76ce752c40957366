"""/metrics: right over several workers and their restarts, bounded, and in Prometheus's format."""

import random
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .conftest import Box
from .web import Token, call, token

PROMTOOL = Path("/usr/bin/promtool")


@pytest.fixture(scope="module")
def scraper(box: Box) -> Iterator[Token]:
    with token(box, "--scope", "metrics") as made:
        yield made


def scrape(box: Box, scraper: Token) -> dict[str, float]:
    """Every series and its value."""
    answer = call(box, scraper, "GET", "/metrics")
    assert answer.status == 200, answer.body
    lines = answer.body.decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {series: float(value) for series, _, value in pairs}


def requests(found: dict[str, float]) -> float:
    """Requests to service notes answered 2xx."""
    return found['tenement_requests_total{code="2xx",service="notes"}']


@pytest.mark.skipif(not PROMTOOL.exists(), reason="promtool is in another layer: make test")
def test_promtool_has_nothing_to_say(box: Box, scraper: Token) -> None:
    box.write_config("metrics", "[settings]\nmetrics_per_tenant = true\n")
    page = call(box, scraper, "GET", "/metrics").body
    found = subprocess.run([PROMTOOL, "check", "metrics"], input=page, capture_output=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


def test_requests_are_counted_once_over_all_workers_and_their_restarts(
    box: Box, tenant: Callable[..., str], scraper: Token
) -> None:
    name = tenant()
    box.run(["ten", "spawn", name])
    host = f"{name.partition(':')[2]}.notes.localhost"
    before = requests(scrape(box, scraper))
    with ThreadPoolExecutor(8) as pool:
        assert {answer.status for answer in pool.map(lambda _: box.http(host), range(200))} == {200}
    after = requests(scrape(box, scraper))
    assert after - before == 200
    box.run("systemctl restart tenement-proxy@1.service")
    assert requests(scrape(box, scraper)) == after
    for _ in range(10):
        box.http(host)
    assert requests(scrape(box, scraper)) == after + 10
    box.run(["ten", "rm", "--purge", "-y", name])
    assert requests(scrape(box, scraper)) == after + 10


def test_wakes_sleeps_and_durations_are_counted(box: Box, tenant: Callable[..., str], scraper: Token) -> None:
    name = tenant()
    host = f"{name.partition(':')[2]}.notes.localhost"
    box.run(["ten", "spawn", "--no-start", name])

    def wakes(found: dict[str, float]) -> float:
        series = 'tenement_wake_duration_seconds_count{{began="{}",service="notes"}}'
        return sum(found[series.format(kind)] for kind in ("asleep", "armed", "frozen"))

    first = scrape(box, scraper)
    assert box.http(host).status == 200
    box.run(["ten", "stop", name])
    assert box.http(host).status == 200
    second = scrape(box, scraper)
    assert wakes(second) - wakes(first) == 2
    slept = 'tenement_sleeps_total{depth="asleep",service="notes"}'
    assert second[slept] - first[slept] == 1
    count = 'tenement_request_duration_seconds_count{service="notes"}'
    assert second[count] - first[count] == 2
    assert second['tenement_cpu_seconds_total{service="notes"}'] > 0


def test_the_number_of_series_depends_only_on_tenants_that_exist(
    box: Box, tenant: Callable[..., str], scraper: Token
) -> None:
    box.write_config("metrics", "[settings]\nmetrics_per_tenant = true\n")
    stays = tenant()
    box.run(["ten", "spawn", stays])
    box.http(f"{stays.partition(':')[2]}.notes.localhost")
    before = scrape(box, scraper)
    chosen = random.Random(1)

    def any_request(_: int) -> None:
        word = "".join(chosen.choices("abcdefghij0123456789-", k=12))
        host = chosen.choice(
            [f"{word}.notes.localhost", f"{word}.example.com", f"{word}.localhost", "localhost"]
        )
        method = chosen.choice(
            ["GET", "PUT", "DELETE", "OPTIONS", word.strip("-0123456789").upper() or "GET"]
        )
        box.http(host, f"/{word}?{word}", method)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(any_request, range(2000)))
    passing = [tenant() for _ in range(40)]
    box.run(["ten", "spawn", "--no-start", *passing])
    during = scrape(box, scraper)
    assert all(any(name in series for series in during) for name in passing)
    box.run(["ten", "rm", "--purge", "-y", *passing])
    after = scrape(box, scraper)
    assert set(after) == set(before)
    unrouted = re.compile(r"tenement_unrouted_requests_total")
    assert (
        sum(v for k, v in after.items() if unrouted.match(k))
        - sum(v for k, v in before.items() if unrouted.match(k))
        > 1000
    )


def test_addresses_that_the_configuration_names_need_no_token(box: Box) -> None:
    assert box.http("localhost", "/metrics").status == 401
    box.write_config("metrics", '[settings]\nmetrics_allow = ["127.0.0.0/8"]\n')
    # The API asks for its settings every few seconds.
    box.wait_for(lambda: box.http("localhost", "/metrics").status == 200, 10)
    box.remove_configs()
    box.wait_for(lambda: box.http("localhost", "/metrics").status == 401, 10)
