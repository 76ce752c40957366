"""The HTTP API as the world meets it: through the proxy, with tokens of every kind."""

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from hypothesis import assume, given, settings, strategies

from tenement.api.application import OPERATIONS
from tenement.api.operation import Need, Operation
from tenement.manager.log_streams import LEVELS

from .conftest import Box, Response
from .web import ASLEEP, TALKER, Token, call, listed, say, token

FUZZER = Path("/opt/fuzzer/bin/st")
BROWSER_STREAMS = ("/api/logs/stream", "/live", "/tenants/{tenant}/live")


@pytest.fixture(scope="module")
def admin(box: Box) -> Iterator[Token]:
    with token(box, "--name", "test") as made:
        yield made


def good_path(operation: Operation, tenant: str) -> str:
    """The operation's path for a tenant, with a query if it needs one."""
    values = {
        "tenant": tenant,
        "token": "aaaaaaaa",
        "action": "restart",
        "file": "style.css",
        "service": "notes",
        "domain": "www.example.com",
    }
    path = operation.path.format_map(values)
    if operation.path.startswith("/api/logs"):
        service, _, id_ = tenant.partition(":")
        path += f"?service={service}&id={id_}"
    return path


def test_every_route_is_closed_to_every_token_that_is_not_meant_for_it(
    box: Box, tenant: Callable[..., str], admin: Token
) -> None:
    alice, bob = tenant(), tenant()
    box.run(["ten", "spawn", "--no-start", alice, bob])
    with (
        token(box, "--tenant", alice) as own,
        token(box, "--tenant", bob) as other,
        token(box, "--scope", "metrics") as metrics,
        token(box, "--expires", "0.001") as expired,
        token(box) as revoked,
    ):
        box.run(["ten", "token", "revoke", revoked.id])
        wrong = Token("", admin.text[:-1] + ("A" if admin.text[-1] != "A" else "B"))
        tried = 0
        unauthorized, forbidden = set(), set()
        for operation in OPERATIONS:
            path = good_path(operation, alice)
            for kind in (None, wrong, expired, revoked):
                answer = call(box, kind, operation.method, path)
                tried += 1
                if operation.need is Need.PUBLIC:
                    assert answer.status in (200, 303, 401, 403), path
                elif operation.need is Need.SESSION:
                    assert (answer.status, answer.headers["Location"][:6]) == (303, "/login"), path
                else:
                    assert answer.status == 401, (operation.method, path, answer.body)
                    unauthorized.add(answer.body)
            for kind in (other, metrics, own):
                allowed = operation.need is Need.PUBLIC
                allowed |= operation.need is Need.OWN and kind is own
                allowed |= operation.need is Need.METRICS and kind is metrics
                if allowed and operation.path in BROWSER_STREAMS:
                    continue  # It does not end; see below.
                answer = call(box, kind, operation.method, path)
                tried += 1
                if operation.need is Need.SESSION:
                    assert answer.status == 303, path
                elif allowed:
                    assert answer.status != 403 or operation.path == "/login", path
                else:
                    assert answer.status == 403, (operation.method, path, answer.status)
                    forbidden.add(answer.body)
        # Nothing tells why.
        assert len(unauthorized) == len(forbidden) == 1
        print(f"{tried} requests to {len(OPERATIONS)} routes")
    states = {each["tenant"]: each["state"] for each in json.loads(box.run("ten ps --json").stdout)}
    assert states[alice] in ASLEEP and states[bob] in ASLEEP


def test_a_tenants_token_cannot_tell_who_else_exists(
    box: Box, tenant: Callable[..., str], admin: Token
) -> None:
    alice, bob = tenant(), tenant()
    box.run(["ten", "spawn", "--no-start", alice, bob])
    with token(box, "--tenant", alice) as own:
        took: dict[str, list[float]] = {bob: [], "notes:nobody-at-all": []}
        bodies = set()
        for _ in range(40):
            for name, times in took.items():
                began = time.perf_counter()
                answer = call(box, own, "GET", f"/api/instances/{name}/storage")
                times.append(time.perf_counter() - began)
                assert answer.status == 403
                bodies.add(answer.body)
        assert len(bodies) == 1
        first, second = (statistics.median(times) for times in took.values())
        assert 0.5 < first / second < 2


def test_a_new_method_of_the_manager_is_closed_to_the_api(box: Box) -> None:
    """Only what is entered in the table of rights can be called with a token, and by nobody without one."""
    made = json.loads(box.run("ten token create --json").stdout)
    act = "busctl --system call dev.tenement.Manager /dev/tenement/Manager dev.tenement.Manager1 "
    refused = box.run(f"{act} Act sssav {made['token']} test GetRoutes 0", user="tenement-api", check=False)
    assert "does not allow" in refused.stderr
    allowed = box.run(f"{act} Act sssav {made['token']} test Services 0", user="tenement-api")
    assert "av 1" in allowed.stdout
    for member in ("List s ''", "CreateToken sssd admin '' x 0", "GetRoutes", "Stop ss notes alice"):
        denied = box.run(act + member, user="tenement-api", check=False)
        assert denied.returncode and "Access denied" in denied.stderr, member
    box.run(["ten", "token", "revoke", made["id"]])


def test_what_the_bus_cannot_carry_is_a_bad_name_and_not_an_absent_manager(box: Box, admin: Token) -> None:
    for path in ("/api/domains?selector=a%00b", "/api/instances/notes:a%00b", "/api/logs?service=a%00b&id=c"):
        answer = call(box, admin, "GET", path)
        assert 400 <= answer.status < 500, (path, answer.body)
    for odd in ("ten_a\udcff_b", "ten_a\x00_b"):
        headers = {"Authorization": f"Bearer {odd}".encode("utf-8", "surrogateescape").decode("latin-1")}
        assert box.http("localhost", "/api/instances", headers=headers).status in (400, 401)


def test_a_tenant_lives_its_life_over_http_and_every_change_is_in_the_journal(
    box: Box, tenant: Callable[..., str], admin: Token
) -> None:
    name = tenant()
    id_ = name.partition(":")[2]
    made = call(box, admin, "POST", "/api/instances/spawn", {"process": "notes", "id": id_})
    assert made.status == 201 and made.headers["Location"] == f"/api/instances/{name}"
    assert call(box, admin, "POST", "/api/instances/spawn", {"service": "notes", "id": id_}).status == 409
    one = f"/api/instances/{name}"
    assert call(box, admin, "PUT", f"{one}/weight", {"weight": 7}).json()["weight"] == 7  # type: ignore[index]
    assert call(box, admin, "GET", f"{one}/health").json()["health"] == "healthy"  # type: ignore[index]
    assert call(box, admin, "POST", f"{one}/stop").json()["state"] in ASLEEP  # type: ignore[index]
    assert call(box, admin, "PATCH", one, {"enabled": False}).json()["state"] == "disabled"  # type: ignore[index]
    assert box.http(f"{id_}.notes.localhost").status == 503
    assert problem(call(box, admin, "POST", f"{one}/restart")) == 409
    assert call(box, admin, "PATCH", one, {"enabled": True}).json()["enabled"] is True  # type: ignore[index]
    assert call(box, admin, "POST", f"{one}/restart").json()["state"] == "running"  # type: ignore[index]
    assert call(box, admin, "GET", f"{one}/storage").json()["bytes"] > 0  # type: ignore[index,operator]
    assert call(box, admin, "DELETE", f"{one}?purge=true").status == 204
    assert call(box, admin, "GET", one).status == 404
    journal = box.run(f"journalctl -o json TENEMENT_TOKEN={admin.id} TENANT={name}").stdout
    audited = [json.loads(line) for line in journal.splitlines()]
    actions = [(each["TENEMENT_ACTION"], each["TENEMENT_RESULT"]) for each in audited]
    assert actions == [
        ("Spawn", "done"),
        ("Spawn", "AlreadyExists"),
        ("SetWeight", "done"),
        ("Stop", "done"),
        ("Disable", "done"),
        ("Restart", "Disabled"),
        ("Enable", "done"),
        ("Restart", "done"),
        ("Remove", "done"),
    ]
    assert {each["TENEMENT_PEER"] for each in audited} == {"127.0.0.1"}
    assert admin.text not in box.run("journalctl --no-pager -u tenement-api -u tenement-manager").stdout


def test_a_removed_tenants_token_does_not_open_the_next_one_of_that_name(
    box: Box, tenant: Callable[..., str]
) -> None:
    name = tenant()
    box.run(["ten", "spawn", "--no-start", name])
    with token(box, "--tenant", name) as own:
        assert call(box, own, "GET", f"/api/instances/{name}/health").status == 200
        box.run(["ten", "rm", "--purge", "-y", name])
        box.run(["ten", "spawn", "--no-start", name])
        assert call(box, own, "GET", f"/api/instances/{name}/health").status == 401


def test_lists_come_in_pages_that_link_to_the_next(
    box: Box, tenant: Callable[..., str], admin: Token
) -> None:
    names = sorted(tenant() for _ in range(5))
    box.run(["ten", "spawn", "--no-start", *names])
    search = "t"
    path, seen = f"/api/instances?search={search}&limit=2&service=notes", []
    while path:
        answer = call(box, admin, "GET", path)
        seen += [each["tenant"] for each in answer.json()]  # type: ignore[attr-defined]
        path = (answer.headers["Link"] or "").partition("<")[2].partition(">")[0]
        assert len(seen) <= int(answer.headers["X-Total-Count"])
    assert set(names) <= set(seen)
    assert seen == sorted(set(seen))


def test_logs_are_read_searched_and_followed(box: Box, tenant: Callable[..., str], admin: Token) -> None:
    box.write_config("talker", TALKER)
    name = tenant("talker")
    id_ = name.partition(":")[2]
    box.run(["ten", "spawn", name])
    for word in ("first", "needle <b>here</b>", "last"):
        say(box, name, word)
    query = f"service=talker&id={id_}"
    found = box.wait_for(lambda: listed(box, admin, f"/api/logs?{query}&search=NEEDLE"), 10)
    assert [each["message"] for each in found] == ["needle <b>here</b>"]
    assert [each["message"] for each in listed(box, admin, f"/api/logs?{query}&limit=1")] == ["last"]
    with token(box, "--tenant", name) as own:
        connection = HTTPConnection("127.0.0.1", 80, timeout=20)
        connection.request("GET", f"/api/logs/stream?{query}", headers={"Host": "localhost", **own.fields})
        stream = connection.getresponse()
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        say(box, name, "while following")
        for line in stream:
            if b"while following" in line:
                break
        connection.close()
    # journalctl ends with its reader.
    box.wait_for(lambda: not box.run("pgrep -f 'journalctl.*--follow'", check=False).stdout, 25)


def test_an_app_has_its_own_api_health_metrics_and_authorization(
    box: Box, tenant: Callable[..., str], admin: Token
) -> None:
    box.write_config("talker", TALKER)
    name = tenant("talker")
    box.run(["ten", "spawn", name])
    host = f"{name.partition(':')[2]}.talker.localhost"
    for path in ("/api/instances", "/health", "/metrics", "/login", "/static/style.css"):
        for fields in (admin.fields, {"Authorization": "Basic  dXNlcjpwYXNz"}):
            answer = box.http(host, path, headers=fields).json()
            assert answer == {"path": path, "authorization": fields["Authorization"]}


def test_the_command_does_over_http_what_it_does_over_the_bus(
    box: Box, tenant: Callable[..., str], admin: Token
) -> None:
    name = tenant()
    remote = f"TENEMENT_TOKEN={admin.text} ten --server http://localhost "
    shown = box.run(f"{remote} spawn {name}").stdout
    assert shown.startswith(f"{name}  http://")
    for command in (f"ps {name}", f"ps -q {name}", f"status {name}", "version"):
        here, there = (box.run(each + command).stdout for each in ("ten ", remote))
        assert [line for line in here.splitlines() if "ago" not in line] == [
            line for line in there.splitlines() if "ago" not in line
        ], command
    for command in ("stop", "restart", "disable", "enable", "rm --purge -y", "status", "rm -y"):
        here, there = (box.run(f"{each} {command} {name}x", check=False) for each in ("ten", remote))
        assert (here.returncode, here.stderr) == (there.returncode, there.stderr), command
    box.run(f"{remote} stop {name}")
    assert json.loads(box.run(f"{remote} ps --json {name}").stdout)[0]["state"] in ASLEEP
    box.run(f"{remote} rm --purge -y {name}")
    assert box.run(f"ten status {name}", check=False).returncode == 3
    bad = box.run("TENEMENT_TOKEN=ten_a_b ten --server http://localhost ps", check=False)
    assert (bad.returncode, len(bad.stderr.splitlines())) == (4, 1)


def test_watching_neither_wakes_a_sleeper_nor_keeps_anybody_awake(
    box: Box, tenant: Callable[..., str], admin: Token
) -> None:
    box.write_config("talker", TALKER.replace("idle_timeout = 300", "idle_timeout = 2"))
    sleeper, idler = tenant("talker"), tenant("talker")
    box.run(["ten", "spawn", "--no-start", sleeper])
    box.run(["ten", "spawn", idler])
    paths = ["/health", "/metrics", "/api/instances", "/api/usage", "/api/services", "/api/events"]
    for name in (sleeper, idler):
        service, _, id_ = name.partition(":")
        one = f"/api/instances/{name}"
        paths += [one, f"{one}/health", f"{one}/storage", f"/api/logs?service={service}&id={id_}"]
    jar = "/run/watcher"
    box.run(f"curl -sS -m 20 -c {jar} -d token={admin.text} http://localhost/login")
    pages = [
        f"http://localhost{path}" for path in ("/", "/tenants", f"/tenants/{sleeper}", f"/tenants/{idler}")
    ]
    states: dict[str, set[str]] = {sleeper: set(), idler: set()}
    until = time.monotonic() + 5
    while time.monotonic() < until:
        assert {call(box, admin, "GET", path).status for path in paths} == {200}
        box.run(["curl", "-sS", "-m", "20", "-b", jar, "-o", "/dev/null", "--fail", *pages])
        for name, seen in states.items():
            answer = call(box, admin, "GET", f"/api/instances/{name}/health").json()
            seen.add(answer["health"])  # type: ignore[index]
        time.sleep(0.1)  # A token is good for 100 requests a second.
    assert states[sleeper] <= set(ASLEEP)
    assert states[idler] & set(ASLEEP), "it never fell asleep"


def test_top_shows_who_is_awake(box: Box, tenant: Callable[..., str]) -> None:
    awake, asleep = tenant(), tenant()
    box.run(["ten", "spawn", awake])
    box.run(["ten", "spawn", "--no-start", asleep])
    shown = box.run("ten top -n 1 -d 0.2").stdout
    assert f"{awake}  running" in shown
    assert asleep not in shown


def test_ten_thousand_tenants_are_listed_in_less_than_300_ms(box: Box, admin: Token) -> None:
    """Written into the registry at once, because making them one by one is not what is measured."""
    database = "/var/lib/tenement-manager/registry.db"
    fill = (
        "import sqlite3,time; d=sqlite3.connect('" + database + "'); d.executemany('INSERT INTO tenant"
        " (service,id,created_at) VALUES (?,?,?)',"
        " [('notes', f'many{n}', time.time()) for n in range(10000)]); d.commit()"
    )
    clear = (
        f"import sqlite3; d=sqlite3.connect('{database}');"
        " d.execute(\"DELETE FROM tenant WHERE id LIKE 'many%'\"); d.commit()"
    )
    around = "systemctl stop tenement-manager; python3 -c {}; systemctl start tenement-manager"
    box.run(f'cat >/run/fill.py <<"END"\n{fill}\nEND\ncat >/run/clear.py <<"END"\n{clear}\nEND')
    box.run(around.format("'exec(open(\"/run/fill.py\").read())'"))
    try:
        jar = "/run/jar"
        box.run(f"curl -sS -m 20 -c {jar} -d token={admin.text} http://localhost/login")
        paths = (
            "/",
            "/tenants",
            "/tenants?q=many99",
            "/tenants?sort=-since&page=150",
            "/tenants?group=asleep",
        )
        times = []
        for path in paths:
            curl = f"curl -sS -m 20 -b {jar} -o /dev/null -w '%{{http_code}} %{{time_total}}'"
            answer = box.run(f"{curl} 'http://localhost{path}'").stdout
            status, took_s = answer.split()
            assert status == "200", path
            times.append(float(took_s))
        print({path: f"{took_s * 1000:.0f} ms" for path, took_s in zip(paths, times, strict=True)})
        assert max(times) < 0.3
        assert call(box, admin, "GET", "/api/instances?limit=20000").headers["X-Total-Count"] >= "10000"
    finally:
        box.run(around.format("'exec(open(\"/run/clear.py\").read())'"))


@pytest.mark.skipif(not FUZZER.exists(), reason="the fuzzer is in another layer: make test")
def test_a_fuzzer_that_knows_the_openapi_document_finds_nothing(box: Box, admin: Token) -> None:
    before = {each["id"] for each in listed(box, admin, "/api/tokens")}
    with token(box, "--name", "fuzzer") as fuzzing:
        found = subprocess.run(
            [
                FUZZER, "run", "http://localhost/api/openapi.json", "--url", "http://localhost",
                "-H", f"Authorization: Bearer {fuzzing.text}", "--checks", "all", "--max-examples", "6",
                "--phases", "examples,coverage,fuzzing", "--seed", "1", "--request-timeout", "20",
                "--generation-database", "none", "--no-color", "--max-time", "20",
                # As often as a token may ask: more would be refused without a look at what is asked.
                "--rate-limit", "95/s",
                # It has no end: see below.
                "--exclude-path", "/api/logs/stream",
                # It would end the tokens that it lists, also its own: see below.
                "--exclude-operation-id", "administration_revoke_token",
            ],
            cwd="/tmp", capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip
    assert found.returncode == 0, found.stdout[-6000:]
    assert "generated" in found.stdout
    made = {each["id"] for each in listed(box, admin, "/api/tokens")} - before
    assert made
    for id_ in made:
        assert call(box, admin, "DELETE", f"/api/tokens/{id_}").status == 204
        assert problem(call(box, admin, "DELETE", f"/api/tokens/{id_}")) == 404
    assert {each["id"] for each in listed(box, admin, "/api/tokens")} == before


TEXTS = strategies.text(max_size=20) | strategies.text("abcdefghijklmnopqrstuvwxyz234567", max_size=9)
PROPERTY = settings(deadline=None, max_examples=60, database=None, derandomize=True)


def problem(answer: Response) -> int:
    """The status of an answer that has to be a problem."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["status"] == answer.status  # type: ignore[index]
    return answer.status


@PROPERTY
@given(id_=TEXTS)
def test_only_the_id_of_a_token_ends_one(box: Box, admin: Token, id_: str) -> None:
    assume(id_ not in (admin.id, ".", ".."))
    answer = call(box, admin, "DELETE", f"/api/tokens/{quote(id_, safe='')}")
    assert problem(answer) in (400, 404)


@PROPERTY
@given(
    query=strategies.dictionaries(
        strategies.sampled_from(("id", "level", "limit", "search", "since")),
        TEXTS | strategies.integers(-5, 20_000) | strategies.floats() | strategies.sampled_from(LEVELS),
    ),
    service=strategies.sampled_from(("notes", "notes", "nobody")) | TEXTS,
)
def test_a_stream_of_logs_begins_or_is_refused(
    box: Box, admin: Token, query: dict[str, object], service: str
) -> None:
    path = "/api/logs/stream?" + urlencode({**query, "service": service})
    connection = HTTPConnection("127.0.0.1", 80, timeout=20)
    connection.request("GET", path, headers={"Host": "localhost", **admin.fields})
    answer = connection.getresponse()
    try:
        if answer.status == 200:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            assert answer.readline() == b"retry: 2000\n"
        else:
            assert problem(Response(answer.status, answer.headers, answer.read())) in (400, 503)
    finally:
        connection.close()
