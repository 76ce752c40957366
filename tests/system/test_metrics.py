"""/metrics: right over several workers and their restarts, bounded, and in Prometheus's format."""

import random
import re
import string
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest

from .conftest import Box
from .web import TALKER, Token, call, listed, token

PROMTOOL = Path("/usr/bin/promtool")
WORD = "neverseenbefore"
"""What every host, path and method that visitors make up has in it."""
# Those that have a content.
STATUSES = [status for status in range(200, 600) if status not in (204, 205, 304)]


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


def test_no_count_of_lives_is_lost_with_the_manager(
    box: Box, tenant: Callable[..., str], scraper: Token
) -> None:
    """A count that fell would look to rate() like one that began again, and be added a second time."""
    name = tenant()
    box.run(["ten", "spawn", name])
    box.run(["ten", "stop", name])
    lives = re.compile("tenement_(wake_duration_seconds|sleeps|restarts|failures)")

    def counted() -> dict[str, float]:
        return {series: value for series, value in scrape(box, scraper).items() if lives.match(series)}

    before = counted()
    assert before['tenement_sleeps_total{depth="asleep",service="notes"}'] > 0
    for command in ("systemctl kill -s KILL --kill-whom=main", "systemctl restart"):
        box.run(f"{command} tenement-manager.service")
        box.wait_for(lambda: call(box, scraper, "GET", "/metrics").status == 200, 20)
        assert counted() == before
    box.run(["ten", "restart", name])
    box.run(["ten", "stop", name])
    after = counted()
    assert all(after[series] >= value for series, value in before.items())
    slept = 'tenement_sleeps_total{depth="asleep",service="notes"}'
    assert after[slept] == before[slept] + 1


def test_the_number_of_series_depends_only_on_tenants_that_exist(
    box: Box, tenant: Callable[..., str], scraper: Token
) -> None:
    box.write_config("metrics", f"[settings]\nmetrics_per_tenant = true\n{TALKER}")
    stays = tenant("talker")
    passing = [tenant() for _ in range(200)]
    box.run(["ten", "spawn", stays])
    own_host = f"{stays.partition(':')[2]}.talker.localhost"
    box.http(own_host)
    before = scrape(box, scraper)

    def visit(number: int) -> Counter[int]:
        """Send 1250 requests that nobody could foresee over one connection; the statuses of the answers."""
        chance, answers = random.Random(number), Counter[int]()
        connection = HTTPConnection("127.0.0.1", 80, timeout=30)
        for _ in range(1250):
            word = WORD + "".join(chance.choices(string.ascii_lowercase + string.digits, k=12))
            hosts = (own_host, f"{word}.talker.localhost", f"{word}.example.com", f'{word}.x"y', "localhost")
            method = chance.choice(("GET", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", word.upper()))
            target = f"/{word}/answer?{chance.choice(STATUSES)}&{word}"
            connection.request(method, target, headers={"Host": chance.choice(hosts)})
            answer = connection.getresponse()
            answer.read()
            answers[answer.status] += 1
        connection.close()
        return answers

    with ThreadPoolExecutor(8) as pool:
        answers: Counter[int] = sum(pool.map(visit, range(8)), Counter())
    box.run(["ten", "spawn", "--no-start", *passing])
    during = scrape(box, scraper)
    assert all(f'tenement_tenant_running{{tenant="{name}"}}' in during for name in passing)
    box.run(["ten", "rm", "--purge", "-y", *passing])
    after = scrape(box, scraper)
    assert set(after) == set(before)
    assert not [series for series in during if WORD in series.lower()]
    counts = re.compile(r"tenement_(unrouted_requests|api_requests|requests)_total")
    counted = sum(value - before[series] for series, value in after.items() if counts.match(series))
    # What is no request in HTTP's own terms is refused before there is anything to count.
    assert answers.total() == 10_000
    assert counted >= answers.total() - answers[400]
    assert len(answers) > 200


def test_what_the_kernel_does_not_count_is_left_out_and_doctor_says_so(
    box: Box, tenant: Callable[..., str], scraper: Token
) -> None:
    box.write_config("metrics", "[settings]\nmetrics_per_tenant = true\n")
    name = tenant()
    box.run(["ten", "spawn", name])
    controllers = box.run("cat /sys/fs/cgroup/cgroup.controllers").stdout.split()
    found = scrape(box, scraper)
    doctor = box.run("ten doctor", check=False).stdout
    with token(box) as admin:
        (usage,) = [each for each in listed(box, admin, "/api/usage") if each["tenant"] == name]
    assert found['tenement_cpu_seconds_total{service="notes"}'] > 0
    assert usage["cpu_usec"] > 0
    for controller, setting, series, field in (
        ("memory", "memory_limit_mb", "memory_bytes", "memory_bytes"),
        ("pids", "tasks_max", "tasks", "tasks"),
    ):
        counted = controller in controllers
        assert (f'tenement_{series}{{service="notes"}}' in found) == counted
        assert (usage[field] is not None) == counted
        assert (setting in doctor) != counted
    assert (f'tenement_tenant_memory_bytes{{tenant="{name}"}}' in found) == ("memory" in controllers)


def test_addresses_that_the_configuration_names_need_no_token(box: Box) -> None:
    assert box.http("localhost", "/metrics").status == 401
    box.write_config("metrics", '[settings]\nmetrics_allow = ["127.0.0.0/8"]\n')
    # The API asks for its settings every few seconds.
    box.wait_for(lambda: box.http("localhost", "/metrics").status == 200, 10)
    box.remove_configs()
    box.wait_for(lambda: box.http("localhost", "/metrics").status == 401, 10)
