"""Attacks on the proxy from both sides: apps that lie to it, and clients that try to slip something through.

Each ends in a clean refusal, nobody else notices, and the workers are the same afterwards, and not larger.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenement.proxy.settings import Settings

from .apps import Tenant, toml
from .conftest import Box
from .hostile.liar import LIES

LIAR = "/src/tests/system/hostile/liar.py"
CROWD = str(Path(__file__).parent / "hostile" / "crowd.py")
MIB = 1 << 20
type Answers = list[tuple[int, bytes]]


@pytest.fixture(scope="module")
def town(box: Box) -> Iterator[dict[str, Tenant]]:
    """A liar, an honest neighbour of another service, and a bystander whom hidden requests are meant for."""
    text = f'[service.liar]\ncommand = ["/usr/bin/python3", "-IS", "{LIAR}"]\nrequest_timeout = 3\n'
    box.write_config("town", text + toml("honest"), keep=True)
    names = {"liar": "liar:l", "honest": "honest:h", "bystander": "honest:b"}
    tenants = {key: Tenant(box, name) for key, name in names.items()}
    try:
        box.run(["ten", "spawn", *names.values()])
        yield tenants
    finally:
        box.run(["ten", "rm", "--purge", "-y", *names.values()], check=False)
        box.run("rm -f /etc/tenement/tenement.d/town.toml; ten reload", check=False)


def workers(box: Box) -> dict[str, tuple[str, int]]:
    """The workers: for each its process and how many bytes of memory it has."""
    found = {}
    for line in box.run(
        "systemctl list-units -q --plain --no-legend 'tenement-proxy@*.service'"
    ).stdout.splitlines():
        unit = line.split()[0]
        pid = box.run(["systemctl", "show", "-P", "MainPID", unit]).stdout.strip()
        rss = re.search(r"VmRSS:\s+(\d+)", (box.root / "proc" / pid / "status").read_text())
        found[unit] = (pid, int(rss[1]) * 1024 if rss else 0)
    return found


@pytest.fixture(autouse=True)
def workers_unimpressed(box: Box, town: dict[str, Tenant]) -> Iterator[None]:
    before = workers(box)
    yield
    after = workers(box)
    assert {unit: pid for unit, (pid, _) in after.items()} == {unit: pid for unit, (pid, _) in before.items()}
    for unit, (_, size) in after.items():
        assert size - before[unit][1] < 64 * MIB, unit
    assert town["honest"].get().tenant == "honest:h"


def exchange(data: bytes, wait_s: float = 8.0, most: int = 8 * MIB) -> tuple[bytes, bool]:
    """Send bytes; gives what comes back, for a time, and whether the proxy closed the connection."""
    got, closed = bytearray(), False
    with socket.create_connection(("127.0.0.1", 80), timeout=wait_s) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(data)
        end = time.monotonic() + wait_s
        while time.monotonic() < end and len(got) < most:
            client.settimeout(max(0.01, end - time.monotonic()))
            try:
                more = client.recv(65536)
            except TimeoutError:
                break
            except ConnectionResetError:
                closed = True
                break
            if not more:
                closed = True
                break
            got += more
    return bytes(got), closed


def statuses(data: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d\d\d) ", data)]


ENDLESS = {"never-ending-body", "never-ending-chunks"}
# What is true of these answers is given to the client, and the rest is thrown away.
TRUE_IN_PART = {
    "two-answers": b"first",
    "second-answer-in-field": b"first",
    "too-long": b"xxx",
    "body-after-304": b"",
    "body-after-204": b"",
    "body-after-head": b"",
    "too-short": b"short",
    "bad-chunk": b"",
    "huge-chunk": b"",
}


@pytest.mark.parametrize("lie", sorted(LIES))
def test_a_lie_reaches_nobody_but_its_own_client(town: dict[str, Tenant], lie: str) -> None:
    method = b"HEAD" if lie == "body-after-head" else b"GET"
    request = (
        method + b" /" + lie.encode() + b" HTTP/1.1\r\nHost: l.liar.localhost\r\nConnection: close\r\n\r\n"
    )
    got, closed = exchange(request)
    assert b"second" not in got
    if lie in ENDLESS:
        assert statuses(got)[:1] == [200]
    elif lie in TRUE_IN_PART:
        assert len(statuses(got)) == 1
        body = got.partition(b"\r\n\r\n")[2]
        assert body.removesuffix(b"\r\n") == TRUE_IN_PART[lie] or statuses(got) == [502]
        assert closed or lie not in ("too-short", "bad-chunk", "huge-chunk")
    elif lie == "endless-interim":
        assert 200 not in statuses(got)
        assert closed
    else:
        assert statuses(got) in ([502], [504]) or (got == b"" and closed), got[:300]
    # The next visitor of the liar gets its own answer.
    answer, _ = exchange(b"GET / HTTP/1.1\r\nHost: l.liar.localhost\r\nConnection: close\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nok"), answer[-200:]


HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: b.honest.localhost\r\n\r\n"
HOST = b"Host: h.honest.localhost\r\n"


def post(*lines: bytes, body: bytes = b"", host: bytes = HOST) -> bytes:
    return b"POST / HTTP/1.1\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


SMUGGLED = {
    "length, then coding": post(b"Content-Length: 4", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "coding, then length": post(b"Transfer-Encoding: chunked", b"Content-Length: 4", body=b"0\r\n\r\n"),
    "two lengths": post(b"Content-Length: 0", b"Content-Length: 52"),
    "a list of lengths": post(b"Content-Length: 5,5", body=b"abcde"),
    "a signed length": post(b"Content-Length: +5", body=b"abcde"),
    "a length in hexadecimal": post(b"Content-Length: 0x5", body=b"abcde"),
    "a coding with a space": post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "an unknown coding": post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunked not last": post(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n"),
    "chunked twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "a vertical tab": post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "a folded coding": post(b"Transfer-Encoding:", b" chunked", body=b"0\r\n\r\n"),
    "a bare line feed": b"POST / HTTP/1.1\n" + HOST + b"Content-Length: 0\n\n",
    "a bare return": post(b"X-A: a\rTransfer-Encoding: chunked"),
    "a NUL": post(b"X-A: a\0b"),
    "a control byte in a name": post(b"X-\x01A: a"),
    "a chunk size in octal": post(b"Transfer-Encoding: chunked", body=b"0o5\r\nabcde\r\n0\r\n\r\n"),
    "a signed chunk size": post(b"Transfer-Encoding: chunked", body=b"-1\r\nabcde\r\n0\r\n\r\n"),
    "a chunk size of 17 digits": post(b"Transfer-Encoding: chunked", body=b"1" + b"0" * 16 + b"\r\n"),
    "a line feed in a chunk extension": post(b"Transfer-Encoding: chunked", body=b"0;a\nb\r\n\r\n"),
    "an endless chunk extension": post(b"Transfer-Encoding: chunked", body=b"1;" + b"x" * 100000 + b"\r\n"),
    "a chunk longer than it says": post(b"Transfer-Encoding: chunked", body=b"1\r\nabc\r\n0\r\n\r\n"),
    "two hosts": post(b"Host: b.honest.localhost"),
    "no host": post(host=b""),
    "a host with a path": post(host=b"Host: h.honest.localhost/../b.honest.localhost\r\n"),
    "a host with a user": post(host=b"Host: h.honest.localhost@b.honest.localhost\r\n"),
    "another host in the target": (
        b"GET http://b.honest.localhost/hidden HTTP/1.1\r\nHost: h.honest.localhost\r\nBad\r\n\r\n"
    ),
    "a control byte in the target": b"GET /\x01 HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space in the target": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "another version": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a very long line": b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "a flood of fields": post(*(b"X-%d: y" % number for number in range(5000))),
    "a flood of bytes": post(*(b"X-%d: " % number + b"y" * 1000 for number in range(200))),
}


def test_nothing_is_smuggled_past_the_proxy(
    town: dict[str, Tenant], capsys: pytest.CaptureFixture[str]
) -> None:
    before = town["bystander"].get().count
    broken = {}
    for name, request in SMUGGLED.items():
        got, closed = exchange(request + HIDDEN, 3)
        found = statuses(got)
        # 200: the head was whole, and the app answered before the body turned out to be a lie.
        if not closed or len(found) != 1 or not 400 <= found[0] < 506:
            broken[name] = (found, closed, got[:200])
    with capsys.disabled():
        print(
            f"\nattacks by malformed requests: {len(SMUGGLED)} tried, {len(SMUGGLED) - len(broken)} refused"
        )
    assert not broken
    assert town["bystander"].get().count == before + 1


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET http://b.honest.localhost/ HTTP/1.1",
        b"GET / HTTP/1.1\r\nX-Forwarded-Host: b.honest.localhost",
        b"GET / HTTP/1.1\r\nX-Host: b.honest.localhost\r\nX-Original-Host: b.honest.localhost",
        b"GET //b.honest.localhost/ HTTP/1.1",
        b"GET /..;/b.honest.localhost HTTP/1.1",
    ],
)
def test_only_the_host_says_whose_request_it_is(town: dict[str, Tenant], request_line: bytes) -> None:
    before = town["bystander"].get().count
    got, _ = exchange(request_line + b"\r\n" + HOST + b"Connection: close\r\n\r\n", 3)
    # RFC 9112, 3.2.2: the host of an absolute target replaces Host; or the proxy refuses the two at odds.
    if request_line.startswith(b"GET http:"):
        assert statuses(got) == [400] or b'"honest:b"' in got
    else:
        assert b'"honest:h"' in got
        assert town["bystander"].get().count == before + 1


@pytest.mark.parametrize(
    "path", [b"/api/instances", b"//api/instances", b"/./api/instances", b"/%61pi/instances"]
)
def test_the_api_is_not_reached_through_a_tenants_name(town: dict[str, Tenant], path: bytes) -> None:
    got, _ = exchange(b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", 3)
    assert b'"honest:h"' in got


@pytest.mark.parametrize(
    "path", [b"/api/instances", b"//api/instances", b"/x/../api/instances", b"/%61pi/instances"]
)
@pytest.mark.parametrize("host", [b"localhost", b"LOCALHOST.", b"localhost:80"])
def test_no_spelling_of_path_or_host_opens_the_api(town: dict[str, Tenant], path: bytes, host: bytes) -> None:
    spoofed = b"X-Forwarded-For: 127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\n"
    got, _ = exchange(
        b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + spoofed + b"Connection: close\r\n\r\n"
    )
    assert statuses(got)[0] in (400, 401, 403, 404), got[:300]
    assert b"honest" not in got


def test_spoofed_origins_do_not_reach_the_app(town: dict[str, Tenant]) -> None:
    forged = (
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-For: 6.6.6.7",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: b.honest.localhost",
        "Forwarded: for=6.6.6.6;proto=https",
        "X-Real-IP: 6.6.6.6",
    )
    request = "\r\n".join(
        ["GET /head HTTP/1.1", "Host: l.liar.localhost", *forged, "Connection: close", "", ""]
    )
    got, _ = exchange(request.encode())
    seen = got.partition(b"\r\n\r\n")[2].decode().lower()
    assert "\r\nx-forwarded-for: 127.0.0.1\r\n" in seen.replace("::ffff:", ""), seen
    for value in ("6.6.6", "https", "b.honest"):
        assert value not in seen, seen


def test_many_slow_clients_hold_up_nobody(town: dict[str, Tenant]) -> None:
    """300 that send a header byte by byte, 50 that send a body so; in the end they are cut off."""
    head = b"GET / HTTP/1.1\r\n" + HOST + b"X-A: "
    clients = [socket.create_connection(("127.0.0.1", 80), timeout=30) for _ in range(350)]
    try:
        for number, client in enumerate(clients):
            client.sendall(head if number < 300 else post(b"Content-Length: 1000000"))
        began = time.monotonic()
        open_ones = set(clients[:300])
        while open_ones and time.monotonic() - began < 25:
            for client in list(open_ones):
                with contextlib.suppress(BlockingIOError):
                    try:
                        client.send(b"a", socket.MSG_DONTWAIT)
                        if (said := client.recv(100, socket.MSG_DONTWAIT)) == b"" or b" 408 " in said:
                            open_ones.discard(client)
                    except (BrokenPipeError, ConnectionResetError):
                        open_ones.discard(client)
            asked = time.monotonic()
            assert town["honest"].get().tenant == "honest:h"
            assert time.monotonic() - asked < 2
            time.sleep(0.5)
        took_s = time.monotonic() - began
        assert not open_ones, f"{len(open_ones)} still open"
        assert 10 < took_s < 25
    finally:
        for client in clients:
            client.close()


WAVES, WAVE, WAVES_AT_ONCE = 20, 5000, 9


def may_have_open(box: Box, pid: str) -> int:
    """How many files and connections a process may have open."""
    limits = (box.root / "proc" / pid / "limits").read_text()
    found = re.search(r"^Max open files +(\d+)", limits, re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_a_hundred_thousand_connections_hold_up_nobody(box: Box, town: dict[str, Tenant]) -> None:
    """In waves, together more than the workers keep: who is idle for longest makes room."""
    pids = [pid for pid, _ in workers(box).values()]
    kept = Settings().within(may_have_open(box, pids[0])).max_connections
    assert len(pids) * kept < WAVES_AT_ONCE * WAVE
    crowd: deque[subprocess.Popen[str]] = deque()
    most = 0
    with contextlib.ExitStack() as waves:
        for number in range(WAVES):
            if len(crowd) == WAVES_AT_ONCE:
                first = crowd.popleft()
                assert first.stdin is not None
                first.stdin.close()
                assert first.wait(30) == 0
            command = [sys.executable, "-IS", CROWD, f"127.0.2.{number + 1}", str(WAVE)]
            pipe = subprocess.PIPE
            wave = waves.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
            crowd.append(wave)
            assert wave.stdout is not None
            assert wave.stdout.readline() == "here\n"
            assert town["honest"].get().tenant == "honest:h"
            most = max(most, *(len(os.listdir(box.root / "proc" / pid / "fd")) for pid in pids))
    assert kept / 2 < most < kept + 200
