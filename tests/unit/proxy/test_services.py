"""Requests to a service as a whole: weights, the cookie that keeps a visitor, and the waiting page."""

import pytest

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
