"""Requests to a service as a whole: weights, the cookie that keeps a visitor, and the waiting page."""

from pathlib import Path

import pytest

from tenement.errors import Overloaded
from tenement.proxy.sticky import Sticky
from tests.unit.proxy.harness import Site, at_a_site, eventually, fields, get, ok, replies

SERVICE = b"notes.localhost"


async def two_apps(here: Site) -> None:
    await here.app(replies(ok(b"alice")))
    await here.app(replies(ok(b"bob")), "notes:bob")


@at_a_site()
async def test_requests_go_to_the_tenants_that_weigh_something(here: Site):
    here.configure(tenants={"notes:alice": {"weight": 0}, "notes:bob": {"weight": 1}})
    await two_apps(here)
    client = await here.client()
    for _ in range(10):
        client.send(get(host=SERVICE))
        assert (await client.answer())[1] == b"bob"


@at_a_site()
async def test_a_service_whose_tenants_all_weigh_nothing_is_unavailable(here: Site):
    here.configure(tenants={"notes:alice": {"weight": 0}, "notes:bob": {"enabled": False}})
    client = await here.client()
    client.send(get(host=SERVICE))
    head, _ = await client.answer()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert here.manager.calls == []


@at_a_site()
async def test_a_visitor_stays_with_a_tenant(here: Site):
    here.configure(sticky_key="secret", services={"notes": {"sticky": True}})
    await two_apps(here)
    client = await here.client()
    client.send(get(host=SERVICE))
    head, first = await client.answer()
    (cookie,) = fields(head, b"set-cookie")
    value, _, attributes = cookie.partition(b"; ")
    assert attributes == b"Path=/; HttpOnly; SameSite=Lax"
    for _ in range(10):
        client.send(get(b"/", b"Cookie: other=1; " + value, host=SERVICE))
        head, body = await client.answer()
        assert body == first
        assert fields(head, b"set-cookie") == []


@at_a_site()
async def test_a_tenant_that_weighs_nothing_any_more_loses_its_visitors(here: Site):
    here.configure(
        sticky_key="secret",
        services={"notes": {"sticky": True}},
        tenants={"notes:alice": {"weight": 0}, "notes:bob": {}},
    )
    await two_apps(here)
    value = Sticky("secret").cookie("notes", "alice", secure=False).partition(b";")[0]
    client = await here.client()
    client.send(get(b"/", b"Cookie: " + value, host=SERVICE))
    head, body = await client.answer()
    assert body == b"bob"
    assert fields(head, b"set-cookie")[0].startswith(b"tenement-notes=bob.")


def test_only_cookies_signed_with_the_key_count():
    sticky = Sticky("secret")
    value = sticky.cookie("notes", "alice", secure=True).partition(b";")[0]
    assert sticky.read(value, "notes") == "alice"
    assert sticky.read(b"a=b; " + value + b"; c", "notes") == "alice"
    assert sticky.read(value, "blog") is None
    assert Sticky("other").read(value, "notes") is None
    assert sticky.read(value.replace(b"alice", b"bob"), "notes") is None
    assert not Sticky("")


@pytest.mark.parametrize(
    "cookies", [b"", b"tenement-notes", b"tenement-notes=", b"tenement-notes=.", b"\xff=\xfe"]
)
def test_nonsense_in_cookies_is_no_tenant(cookies: bytes):
    assert Sticky("secret").read(cookies, "notes") is None


@at_a_site(waiting_page_s=0.05)
async def test_a_person_sees_the_waiting_page_while_the_start_goes_on(here: Site):
    here.policy(waiting_page=True)
    await here.app(replies(ok(b"awake")))
    here.manager.gate.clear()
    client = await here.client()
    client.send(get(b"/", b"Accept: text/html"))
    head, body = await client.answer()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert fields(head, b"retry-after") == [b"1"]
    assert b'http-equiv="refresh"' in body
    assert here.manager.released == []
    here.manager.gate.set()
    client.send(get(b"/", b"Accept: text/html"))
    assert (await client.answer())[1] == b"awake"


HTML = b"Accept: text/html"


def with_pages(directory: Path) -> str:
    (directory / "404.html").write_text("<p>Nobody here: {request_id}")
    (directory / "503.html").write_text("<p>Back soon")
    (directory / "waiting.html").write_text("<p>Getting up")
    return str(directory)


def test_a_service_may_bring_its_own_pages(tmp_path: Path):
    @at_a_site()
    async def case(here: Site):
        here.policy(error_pages=with_pages(tmp_path))
        here.manager.errors["notes:alice"] = Overloaded("too many", tenant="notes:alice")
        client = await here.client()
        for host in (b"nobody.notes.localhost", b"a.b.notes.localhost"):
            client.send(get(b"/", HTML, b"X-Request-Id: 17", host=host))
            head, body = await client.answer()
            assert head.startswith(b"HTTP/1.1 404 ")
            assert fields(head, b"content-type") == [b"text/html; charset=utf-8"]
            assert body == b"<p>Nobody here: 17"
        client.send(get(b"/", HTML))
        assert (await client.answer())[1] == b"<p>Back soon"
        client.send(get(b"/", b"Accept: application/json"))
        assert b'"status": 503' in (await client.answer())[1]
        client.send(get(b"/", HTML, host=b"alice.other.localhost"))
        assert b"There is nothing at this address" in (await client.answer())[1]
        here.configure(tenants={"notes:alice": {"weight": 0}})
        client.send(get(b"/", HTML, host=SERVICE))
        assert (await client.answer())[1] == b"<p>Back soon"

    case()


def test_a_service_may_bring_its_own_waiting_page(tmp_path: Path):
    @at_a_site(waiting_page_s=0.05)
    async def case(here: Site):
        here.policy(waiting_page=True, error_pages=with_pages(tmp_path))
        await here.app(replies(ok(b"awake")))
        here.manager.gate.clear()
        client = await here.client()
        client.send(get(b"/", HTML))
        assert (await client.answer())[1] == b"<p>Getting up"
        here.manager.gate.set()

    case()


@at_a_site()
async def test_pages_that_cannot_be_read_are_ours(here: Site):
    here.policy(error_pages="/nonexistent")
    client = await here.client()
    client.send(get(b"/", HTML, host=b"nobody.notes.localhost"))
    assert b"There is nothing at this address" in (await client.answer())[1]


@at_a_site(waiting_page_s=0.05)
async def test_programs_wait_instead(here: Site):
    here.policy(waiting_page=True)
    await here.app(replies(ok(b"awake")))
    here.manager.gate.clear()
    client = await here.client()
    client.send(get(b"/", b"Accept: application/json"))
    await eventually(lambda: bool(here.manager.calls))
    here.manager.gate.set()
    assert (await client.answer())[1] == b"awake"
