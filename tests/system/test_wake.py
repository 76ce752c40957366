"""A request to a tenant that sleeps: it waits, and gets the real answer. See also test_crowds.py."""

import hashlib
import http.client
import itertools
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from .apps import ASLEEP, Answer, Tenant, toml
from .conftest import Box, Response

type NewTenant = Callable[..., str]


def test_the_first_answer_is_the_page_itself_as_soon_as_the_app_is_well(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("sick", health="/up", env={"SICK_S": 3}))
    app = Tenant(box, tenant("sick"))
    box.run(["ten", "spawn", "--no-start", app.name])
    answer = app.get()
    late_s = time.monotonic() - answer.well_since
    assert 0 <= late_s < 0.15
    assert answer.count == 1


def test_fifty_requests_at_one_instant_share_one_start(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("slow", env={"START_DELAY_S": 3}))
    app = Tenant(box, tenant("slow"))
    box.run(["ten", "spawn", "--no-start", app.name])
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: app.get(), range(50)))
    assert sorted(answer.count for answer in answers) == list(range(1, 51))
    assert app.starts() == [answers[0].invocation]
    assert {answer.invocation for answer in answers} == {answers[0].invocation}


def parts(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 50_000):
        yield data[at : at + 50_000]


def test_a_body_sent_to_a_sleeper_arrives_whole_and_once(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("late", env={"START_DELAY_S": 4}))
    body = os.urandom(5_000_000)

    def post(chunked: bool) -> None:
        app = Tenant(box, tenant("late"))
        box.run(["ten", "spawn", "--no-start", app.name])
        connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=30)
        content = parts(body) if chunked else body
        connection.request("POST", "/", content, {"Host": app.host}, encode_chunked=chunked)
        answer = connection.getresponse()
        received = Answer.of(Response(answer.status, answer.headers, answer.read()))
        assert received.digest == hashlib.sha256(body).hexdigest()
        assert received.count == 1

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(post, [False, True]))


@pytest.mark.parametrize(("armed_max", "count"), [(0, 20), (10, 6)], ids=["asleep", "armed"])
def test_wakes_in_a_row_take_the_same_and_leave_nothing_behind(
    box: Box, tenant: NewTenant, armed_max: int, count: int
) -> None:
    ways = ("port", "socket", "fd")
    services = "".join(toml(f"way-{way}", listen=way, idle_timeout=0.05) for way in ways)
    box.write_config("h7", f"[settings]\narmed_max = {armed_max}\n{services}")
    apps = [Tenant(box, tenant(f"way-{way}")) for way in ways]
    box.run(["ten", "spawn", *(app.name for app in apps)])
    rest = ("armed",) if armed_max else ("asleep",)

    def rounds(app: Tenant) -> list[float]:
        taken = []
        for _ in range(count):
            app.wait(*rest)
            began = time.monotonic()
            answer = app.get()
            taken.append(time.monotonic() - began)
            assert answer.count == 1, "an app of an earlier round answered"
        app.wait(*rest)
        return taken

    with ThreadPoolExecutor(3) as pool:
        times = list(pool.map(rounds, apps))
    for taken in times:
        half = count // 2
        assert statistics.median(taken[half:]) < 2 * statistics.median(taken[:half])
    box.run(["ten", "disable", *(app.name for app in apps)])
    for app in apps:
        assert app.processes() == []
        assert app.show("LoadState") == ["not-found"]
        assert not list((box.root / "run/tenement/gates").iterdir())
        assert not list((box.root / "run/tenement/sockets").iterdir())
    assert not re.search(r"127\.0\.0\.1:2\d{4}\b", box.run("ss -Hltn").stdout)


def test_a_start_that_fails_is_told_at_once_and_tried_again_with_growing_pauses(
    box: Box, tenant: NewTenant
) -> None:
    box.write_config(
        "h7",
        toml(
            "crash", startup_timeout=30, max_restarts=4, restart_window=60, backoff_base_ms=200,
            backoff_max_ms=2000, env={"EXIT_STATUS": 1, "FIRST_LINE": "the database is on holiday"},
        ),
    )  # fmt: skip
    app = Tenant(box, tenant("crash"))
    box.run(["ten", "spawn", "--no-start", app.name])

    def request(_: object = None) -> tuple[int, float]:
        began = time.monotonic()
        response = box.http(app.host)
        assert b"holiday" not in response.body, "visitors see internals"
        return response.status, time.monotonic() - began

    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(request, range(20)))
    one_by_one = []
    for _ in range(6):
        one_by_one.append(request())
        time.sleep(1)
    for status, took in together + one_by_one:
        assert status in (502, 503)
        assert took < 10, "waited for longer than the start took to fail"

    status = app.status()
    assert status["last_line"] == "the database is on holiday"
    assert "status 1" in status["reason"]
    listed = box.run(
        ["journalctl", "-b", "-o", "json", "--output-fields=MESSAGE", f"_SYSTEMD_UNIT={app.unit}"]
    )
    times = [int(json.loads(line)["__REALTIME_TIMESTAMP"]) / 1e6 for line in listed.stdout.splitlines()]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    # Twenty requests and six more were answered by few starts, with systemd's growing pauses between them,
    # and a long one after the limit.
    assert 4 <= len(times) <= 10, pauses
    assert all(pause >= least for pause, least in zip(pauses, (0.2, 0.35, 0.6, 2), strict=False)), pauses


def test_the_socket_of_a_tenant_is_the_proxys_alone_at_every_wake(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("sock", listen="socket") + toml("other", env={"SOCKET_MODE": "777"}))
    app, other = Tenant(box, tenant("sock")), Tenant(box, tenant("other"))
    box.run(["ten", "spawn", app.name, other.name])
    seen = set()
    for _ in range(10):
        app.get()
        path = app.status()["address"].removeprefix("unix:")
        listed = box.run(["stat", "-c", "%U %G %a", path, os.path.dirname(path)]).stdout
        seen.add(listed.replace(app.status()["user"], "USER"))
        assert box.http(other.host, f"/connect?{path}").body in (b"ENOENT", b"EACCES")
        attempt = f"import socket; socket.socket(socket.AF_UNIX).connect('{path}')"
        refused = box.run(["python3", "-c", attempt], user="nobody", check=False)
        assert "PermissionError" in refused.stderr
        box.run(["ten", "stop", app.name])
    assert len(seen) == 1, seen
    assert seen.pop().split()[1:3] == ["tenement-proxy", "660"]


def test_a_sleeper_nobody_waits_for_any_more_is_not_started(box: Box, tenant: NewTenant) -> None:
    """One turn to start, taken by a slow starter; the second one's visitor leaves before its turn comes."""
    box.write_config("h7", "[settings]\nmax_concurrent_starts = 1\n" + toml("turn", env={"START_DELAY_S": 2}))
    first, second = Tenant(box, tenant("turn")), Tenant(box, tenant("turn"))
    box.run(["ten", "spawn", "--no-start", first.name, second.name])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.get)
        first.wait("starting")
        visitor = http.client.HTTPConnection("127.0.0.1", 80, timeout=10)
        visitor.request("GET", "/", headers={"Host": second.host})
        second.wait("queued")
        visitor.close()
        second.wait("asleep")
        assert waiting.result().count == 1
    first.wait("running")
    assert second.state() in ASLEEP
    assert second.starts() == []


def test_a_start_that_takes_too_long_is_504_with_a_plain_reason(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("never", startup_timeout=1, env={"START_DELAY_S": 600}))
    app = Tenant(box, tenant("never"))
    box.run(["ten", "spawn", "--no-start", app.name])
    began = time.monotonic()
    response = box.http(app.host, headers={"Accept": "text/html"})
    assert response.status == 504
    assert 1 <= time.monotonic() - began < 3
    assert int(response.headers["Retry-After"]) >= 1
    for secret in (b"127.0.0.1", b"/src", b"systemd", b"Traceback"):
        assert secret not in response.body
    app.wait("failed")
    assert "not ready within 1 s" in app.status()["reason"]
    assert app.processes() == []


def test_a_browser_gets_a_page_that_waits_where_the_service_says_so(box: Box, tenant: NewTenant) -> None:
    box.write_config("h7", toml("page", waiting_page=True, env={"START_DELAY_S": 4}))
    app = Tenant(box, tenant("page"))
    box.run(["ten", "spawn", "--no-start", app.name])
    began = time.monotonic()
    page = box.http(app.host, headers={"Accept": "text/html,*/*"})
    assert time.monotonic() - began < 3
    assert page.status == 503
    assert page.headers["Retry-After"]
    assert b"refresh" in page.body.lower() or page.headers["Refresh"]
    # What is no browser's navigation waits for the answer.
    assert app.get().count == 1
