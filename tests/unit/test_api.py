"""The HTTP API without a manager: what is refused before anybody is asked, and pure parts."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tenement.api import application, openapi, session
from tenement.api.context import in_networks
from tenement.api.dashboard.figures import bar, memory_figures
from tenement.api.logs import entry_of
from tenement.api.operation import Call, Need, Operation
from tenement.api.throttle import Throttle
from tenement.errors import Denied, Unauthorized

TOKENS = {
    "ten_admin": {"id": "1", "scope": "admin", "tenant": None},
    "ten_alice": {"id": "2", "scope": "tenant", "tenant": "notes:alice"},
    "ten_metrics": {"id": "3", "scope": "metrics", "tenant": None},
}


class FakeManager:
    """Knows tokens, and answers every call with nothing."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[Any]]] = []

    async def verify(self, token: str) -> dict[str, Any]:
        if token not in TOKENS:
            raise Unauthorized("no")
        return TOKENS[token]

    async def act(self, token: str, peer: str, member: str, *arguments: Any, **_: Any) -> Any:
        self.calls.append((member, [each.value for each in arguments]))
        return {"Find": {"total": 0, "tenants": []}}.get(member, [])

    async def settings(self) -> dict[str, Any]:
        return {"dashboard": True, "metrics_allow": ["10.1.0.0/16"], "domains": []}

    async def measure(self) -> dict[str, Any]:
        return {"bounds": [1.0], "services": {}, "tenants": []}

    async def open_session(self, token: str, peer: str) -> str:
        if token != "ten_admin":
            raise Denied("no") if token in TOKENS else Unauthorized("no")
        return "ten_session"

    async def close(self) -> None: ...


def ask(
    method: str,
    path: str,
    operations: tuple[Operation, ...] = tuple(application.OPERATIONS),
    manager: FakeManager | None = None,
    times: int = 1,
    **options: Any,
) -> tuple[int, Any, str]:
    """Status, fields and text of the last of some equal requests."""

    async def run() -> tuple[int, Any, str]:
        app = application.make(manager or FakeManager(), operations)  # type: ignore[arg-type]
        async with TestClient(TestServer(app)) as client:
            for _ in range(times):
                async with client.request(method, path, allow_redirects=False, **options) as answer:
                    found = answer.status, answer.headers, await answer.text()
            return found

    return asyncio.run(run())


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def anything(_: Call) -> web.Response:
    return web.Response(text="secret")


def test_an_operation_that_does_not_say_who_may_use_it_is_refused_to_everybody() -> None:
    forgotten = (Operation(method="GET", path="/api/new", handler=anything),)
    for fields in ({}, bearer("ten_admin"), bearer("ten_alice")):
        status, _, text = ask("GET", "/api/new", forgotten, headers=fields)
        assert (status, "secret" in text) == (403, False)
    open_one = (Operation(method="GET", path="/api/new", handler=anything, need=Need.PUBLIC),)
    assert ask("GET", "/api/new", open_one)[0] == 200


def test_every_answer_carries_the_fields_that_keep_browsers_safe() -> None:
    for path in ("/health", "/api/instances", "/login", "/nowhere", "/static/style.css"):
        fields = ask("GET", path)[1]
        assert "default-src 'none'" in fields["Content-Security-Policy"]
        assert "unsafe" not in fields["Content-Security-Policy"]
        assert fields["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("Bearer ten_admin", 200),
        ("bearer ten_admin", 200),
        ("BEARER   ten_admin", 200),
        ("Bearer\tten_admin", 401),
        ("Bearerten_admin", 401),
        ("Bearer ten_admin extra", 401),
        ("Basic ten_admin", 401),
        ("ten_admin", 401),
        ("Bearer ", 401),
        ("", 401),
    ],
)
def test_the_scheme_is_read_as_the_rfc_says(value: str, status: int) -> None:
    assert ask("GET", "/api/instances", headers={"Authorization": value})[0] == status


def test_a_token_in_the_query_is_not_looked_at() -> None:
    assert ask("GET", "/api/instances?token=ten_admin")[0] == 401
    assert ask("GET", "/api/instances?access_token=ten_admin", headers=bearer("ten_admin"))[0] == 400


def test_a_tenants_token_gets_the_same_answer_for_others_and_for_nobody() -> None:
    answers = {
        ask("GET", f"/api/instances/{name}/health", headers=bearer("ten_alice"))[::2]
        for name in ("notes:bob", "notes:nobody", "blog:alice", "notes%3Abob", "notes:ALICE")
    }
    assert len(answers) == 1
    assert answers.pop()[0] == 403
    assert ask("GET", "/api/instances/notes:alice/health", headers=bearer("ten_alice"))[0] == 200


def test_a_tenants_token_reads_its_own_logs_only() -> None:
    for query in ("service=notes", "service=notes&id=bob", "id=alice", "service=notes&id=alice&id=bob"):
        assert ask("GET", f"/api/logs?{query}", headers=bearer("ten_alice"))[0] in (400, 403)


def test_metrics_are_for_their_token_and_for_addresses_that_are_named() -> None:
    assert ask("GET", "/metrics", headers=bearer("ten_metrics"))[0] == 200
    assert ask("GET", "/metrics", headers={"X-Real-IP": "10.1.2.3"})[0] == 200
    assert ask("GET", "/metrics", headers={"X-Real-IP": "::ffff:10.1.2.3"})[0] == 200
    assert ask("GET", "/metrics", headers={"X-Real-IP": "10.2.2.3"})[0] == 401
    assert ask("GET", "/metrics", headers=bearer("ten_alice"))[0] == 403
    assert ask("GET", "/api/instances", headers=bearer("ten_metrics"))[0] == 403


def test_many_bad_tokens_slow_their_address_down_but_nobody_with_a_good_one() -> None:
    async def run() -> None:
        app = application.make(FakeManager())  # type: ignore[arg-type]
        async with TestClient(TestServer(app)) as client:

            async def get(token: str, address: str) -> int:
                fields = {**bearer(token), "X-Real-IP": address}
                async with client.get("/api/instances", headers=fields) as answer:
                    if answer.status == 429:
                        assert int(answer.headers["Retry-After"]) >= 1
                    return answer.status

            assert await get("ten_admin", "192.0.2.1") == 200
            found = [await get("ten_bad", "192.0.2.1") for _ in range(320)]
            assert (found[0], found[-1]) == (401, 429)
            assert await get("ten_admin", "192.0.2.1") == 200
            assert await get("ten_bad", "192.0.2.2") == 401

    asyncio.run(run())


def test_bad_content_is_told_in_one_line_and_never_reaches_the_manager() -> None:
    manager = FakeManager()
    for body, kind, status in (
        (b"{", "application/json", 400),
        (b'{"weight": -1}', "application/json", 400),
        (b'{"weight": 1.5}', "application/json", 400),
        (b'{"weight": "1"}', "application/json", 400),
        (b'{"weight": 1, "more": 1}', "application/json", 400),
        (b'{"weight": 1}', "text/plain", 415),
        (b" " * 70_000, "application/json", 413),
        (b"\xff", "application/json", 400),
    ):
        found, fields, text = ask(
            "PUT",
            "/api/instances/notes:alice/weight",
            manager=manager,
            data=body,
            headers={**bearer("ten_admin"), "Content-Type": kind},
        )
        assert (found, fields["Content-Type"]) == (status, "application/problem+json")
        assert "\n" not in json.loads(text)["detail"]
    assert manager.calls == []


def test_the_openapi_document_has_every_operation_and_no_page() -> None:
    document = openapi.document(application.OPERATIONS)
    described = {(m.upper(), path) for path, item in document["paths"].items() for m in item}
    declared = {(each.method, each.path) for each in application.OPERATIONS if not each.hidden}
    assert described == declared
    identifiers = [each["operationId"] for item in document["paths"].values() for each in item.values()]
    assert len(set(identifiers)) == len(identifiers)


# Sessions


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ("/tenants?q=a", "/tenants?q=a"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
        ("/a\r\nSet-Cookie: x=y", "/"),
    ],
)
def test_after_the_login_one_stays_on_this_site(asked: str, target: str) -> None:
    assert session.local_target(asked) == target


def test_the_cookie_is_for_this_host_and_no_script() -> None:
    status, fields, _ = ask(
        "POST", "/login", data={"token": "ten_admin"}, headers={"X-Forwarded-Proto": "https"}
    )
    cookie = fields["Set-Cookie"]
    assert status == 303
    assert cookie.startswith("__Host-tenement-session=ten_session;")
    for part in ("HttpOnly", "SameSite=Strict", "Secure", "Path=/"):
        assert part in cookie
    assert "Domain" not in cookie


def test_a_login_from_another_site_is_refused() -> None:
    for fields in (
        {"Origin": "http://alice.notes.localhost"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        assert ask("POST", "/login", data={"token": "ten_admin"}, headers=fields)[0] == 403


def test_a_change_needs_the_value_of_the_sessions_forms() -> None:
    manager = FakeManager()
    cookie = {"Cookie": "tenement-session=ten_session"}
    path = "/tenants/notes:alice/restart"
    assert ask("POST", path, manager=manager, headers=cookie)[0] == 403
    assert ask("POST", path, manager=manager, headers=cookie, data={"csrf": "0" * 32})[0] == 403
    assert manager.calls == []
    good = {"csrf": session.csrf_value("ten_session")}
    foreign = {**cookie, "Sec-Fetch-Site": "same-site"}
    assert ask("POST", path, manager=manager, headers=foreign, data=good)[0] == 403
    assert ask("POST", path, manager=manager, headers=cookie, data=good)[0] == 303
    assert manager.calls == [("Restart", ["notes", "alice"])]


def test_tokens_for_the_api_open_no_session() -> None:
    assert ask("POST", "/login", data={"token": "ten_alice"})[0] == 403
    assert ask("POST", "/login", data={"token": "ten_nonsense"})[0] == 401


# Pure parts


def test_a_throttle_lets_bursts_through_and_then_a_steady_rate() -> None:
    now = 0.0
    throttle = Throttle(2.0, 3.0, lambda: now)
    for _ in range(3):
        assert throttle.wait_s("a") == 0
        throttle.take("a")
    assert throttle.wait_s("a") == pytest.approx(0.5)
    assert throttle.wait_s("b") == 0
    now = 0.5
    assert throttle.wait_s("a") == 0


def test_a_throttle_remembers_a_limited_number_of_keys() -> None:
    throttle = Throttle(1.0, 1.0, lambda: 0.0)
    for key in range(20_000):
        throttle.take(str(key))
    assert len(throttle._buckets) == 10_000


def test_networks_hold_addresses_however_they_are_written() -> None:
    assert in_networks("10.1.2.3", ["10.0.0.0/8"])
    assert in_networks("2001:db8::1", ["2001:db8::/32"])
    assert not in_networks("11.1.2.3", ["10.0.0.0/8"])
    assert not in_networks("local", ["0.0.0.0/0"])


def test_a_bar_shows_small_groups_and_stays_within_its_width() -> None:
    found = bar({"awake": 1, "asleep": 9999, "sick": 1})
    assert [group for group, _, _ in found] == ["awake", "asleep", "sick"]
    assert all(width >= 0.5 for _, _, width in found)
    assert found[-1][1] + found[-1][2] == pytest.approx(100.0, abs=0.01)
    assert bar({}) == []


def test_memory_of_sleepers_is_estimated_from_those_that_are_awake() -> None:
    services = [{"service": "notes", "tenants": 100, "states": {"running": 2, "frozen": 2, "asleep": 96}}]
    assert memory_figures(services, {"notes": {"memory_bytes": 400}}) == {"used": 400.0, "always": 10_000.0}
    assert memory_figures(services, {"notes": {"memory_bytes": None}}) == {"used": None, "always": None}


def test_lines_of_the_log_survive_whatever_an_app_prints() -> None:
    def line(**fields: Any) -> bytes:
        return json.dumps({"__REALTIME_TIMESTAMP": "1", "__CURSOR": "c", **fields}).encode()

    unit = "tenement-notes@alice.service"
    assert entry_of(line(MESSAGE=[255, 104, 105], _SYSTEMD_UNIT=unit))["message"] == "\ufffdhi"  # type: ignore[index]
    assert entry_of(line(MESSAGE=None, _SYSTEMD_UNIT=unit))["message"] == ""  # type: ignore[index]
    # The unit is journald's word, the field TENANT anybody's.
    forged = entry_of(line(MESSAGE="x", _SYSTEMD_UNIT=unit, TENANT="notes:bob"))
    assert forged is not None and forged["id"] == "alice"
    assert entry_of(b"nonsense") is None
    assert entry_of(b"[]") is None
