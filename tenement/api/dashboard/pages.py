"""The pages of the dashboard, and what their buttons do."""

import hashlib
from functools import wraps
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from tenement.api import session
from tenement.api.dashboard import live, view
from tenement.api.dashboard.figures import bar, memory_figures
from tenement.api.operation import Call, Handler, Need, Operation
from tenement.api.problems import Refusal
from tenement.errors import Denied, NotFound, TenementError, Unauthorized

_PAGE_SIZE: Final = 50
_EVENTS: Final = 12
_ACTION_TIMEOUT_S: Final = 600.0
# Versions side by side are few; a service with more tenants than this is reached by their own hosts.
_SHARES_MAX: Final = 25
_STATIC: Final = Path(__file__).parents[1] / "static"
_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_ACTIONS: Final = {
    "start": ("Restart", "start"),
    "restart": ("Restart", "restart"),
    "stop": ("Stop", "stop"),
    "enable": ("Enable", "enable"),
    "disable": ("Disable", "disable"),
}
"""What the buttons of a tenant do, and how people call it."""


def page(handler: Handler) -> Handler:
    """A page of the dashboard: an error becomes a page too, and without the dashboard there is none."""

    @wraps(handler)
    async def shown(call: Call) -> web.StreamResponse:
        if not (await call.context.settings())["dashboard"]:
            raise Refusal(404, "The dashboard is turned off")
        try:
            return await handler(call)
        except Unauthorized:
            return session.to_login(call.request)
        except TenementError as error:
            return view.render(
                call.request,
                "error.html",
                call.token,
                error.http_status,
                message=error.message,
                code=error.code,
            )

    return shown


@page
async def login_form(call: Call) -> web.StreamResponse:
    """Ask for a token."""
    target = session.local_target(call.request.query.get("next", "/"))
    return view.render(call.request, "login.html", target=target, problem="")


@page
async def login(call: Call) -> web.StreamResponse:
    """Begin a session with the token that was typed in."""
    request, context = call.request, call.context
    session.check_origin(request)
    form = await request.post()
    target = session.local_target(str(form.get("next", "/")))
    shown = str(form.get("token", "")).strip()
    try:
        await context.verify(shown, call.peer)
        token = await context.manager.open_session(shown, call.peer)
    except Refusal as refusal:
        problem, status = f"{refusal.detail}. Wait a little, and try again.", refusal.status
    except Unauthorized:
        problem, status = "This token is unknown, expired or revoked.", 401
    except Denied as error:
        problem, status = f"{error.message}. This one is for the API.", 403
    else:
        response = web.Response(status=303, headers={"Location": target})
        session.set_cookie(request, response, token)
        return response
    return view.render(request, "login.html", status=status, target=target, problem=problem)


@page
async def logout(call: Call) -> web.StreamResponse:
    """End the session."""
    form = await call.request.post()
    session.check_csrf(call.token, form.get("csrf"))
    await call.context.manager.close_session(call.token)
    response = web.Response(status=303, headers={"Location": "/login"})
    session.clear_cookie(call.request, response)
    return response


@page
async def overview(call: Call) -> web.StreamResponse:
    """How everything is."""
    services = await call.act("Services")
    counts = live.group_counts(services)
    numbers = {
        each["service"]: await live.slice_numbers(call.context.manager, each["service"]) for each in services
    }
    events = await call.act("Events", "s", "")
    return view.render(
        call.request,
        "overview.html",
        call.token,
        counts=counts,
        total=sum(counts.values()),
        bar=bar(counts),
        memory=memory_figures(services, numbers),
        services=services,
        numbers=numbers,
        events=events[:_EVENTS],
    )


@page
async def tenants(call: Call) -> web.StreamResponse:
    """The list, with search, order and pages."""
    query = call.request.query
    group = query.get("group", "")
    group = group if group in view.GROUPS else ""
    sort = query.get("sort", "tenant")
    sort = sort if sort.removeprefix("-") in ("tenant", "state", "since", "last_used") else "tenant"
    number = int(query["page"]) if query.get("page", "").isdecimal() and len(query["page"]) < 7 else 1
    search, service = query.get("q", "").strip()[:130], query.get("service", "")
    found = await call.act(
        "Find",
        "ssssuu",
        service,
        ",".join(view.GROUPS[group][1]) if group else "",
        search,
        sort,
        _PAGE_SIZE,
        (max(1, number) - 1) * _PAGE_SIZE,
    )
    kept = {key: value for key, value in (("q", search), ("service", service), ("group", group)) if value}

    def link(**more: Any) -> str:
        return "/tenants?" + urlencode({**kept, "sort": sort, **more})

    return view.render(
        call.request,
        "tenants.html",
        call.token,
        found=found["tenants"],
        total=found["total"],
        number=max(1, number),
        pages=max(1, -(-found["total"] // _PAGE_SIZE)),
        search=search,
        service=service,
        group=group,
        sort=sort,
        link=link,
    )


@page
async def tenant(call: Call) -> web.StreamResponse:
    """Everything about one tenant."""
    name = call.name
    status = await call.act("Status", "ss", name.service, name.id)
    services = {each["service"]: each for each in await call.act("Services")}
    done = call.request.query.get("done", "")
    return view.render(
        call.request,
        "tenant.html",
        call.token,
        tenant=status,
        service=services.get(name.service, {}),
        events=(await call.act("Events", "s", str(name)))[:_EVENTS],
        done=done if done in _ACTIONS or done == "weight" else "",
    )


@page
async def act(call: Call) -> web.StreamResponse:
    """Do what a button of a tenant's page asks for."""
    form = await call.request.post()
    session.check_csrf(call.token, form.get("csrf"))
    name, action = call.name, call.request.match_info["action"]
    if action == "weight":
        text = str(form.get("weight", ""))
        if not text.isdecimal() or len(text) > 7:
            raise Refusal(400, "The weight has to be a number from 0 to 1000000")
        await call.act("SetWeight", "ssu", name.service, name.id, int(text))
    elif action in _ACTIONS:
        await call.act(_ACTIONS[action][0], "ss", name.service, name.id, timeout_s=_ACTION_TIMEOUT_S)
    else:
        raise Refusal(404, "There is nothing at this address")
    return web.Response(status=303, headers={"Location": f"/tenants/{name}?done={action}"})


@page
async def services(call: Call) -> web.StreamResponse:
    """The services, and how requests for each divide over its tenants."""
    found = await call.act("Services")
    weights, rollouts = {}, {}
    for each in found:
        rollouts[each["service"]] = await _rollout(call, each["service"])
        page_of = await call.act("Find", "ssssuu", each["service"], "", "", "tenant", _SHARES_MAX, 0)
        heavy = [entry for entry in page_of["tenants"] if entry["enabled"]]
        sum_ = sum(entry["weight"] for entry in heavy)
        weights[each["service"]] = [
            (entry, round(100 * entry["weight"] / sum_, 1) if sum_ else 0.0) for entry in heavy
        ]
    return view.render(
        call.request,
        "services.html",
        call.token,
        services=found,
        weights=weights,
        rollouts=rollouts,
        most=_SHARES_MAX,
    )


@page
async def certificates(call: Call) -> web.StreamResponse:
    """Names and their certificates."""
    found = await call.act("TlsStatus")
    return view.render(call.request, "certificates.html", call.token, tls=found)


async def _rollout(call: Call, service: str) -> dict[str, Any] | None:
    try:
        found = await call.act("RolloutStatus", "s", service)
    except NotFound:
        return None
    return found if isinstance(found, dict) else None


@page
async def events(call: Call) -> web.StreamResponse:
    """What happened lately."""
    found = await call.act("Events", "s", "")
    return view.render(call.request, "events.html", call.token, events=found)


async def static(call: Call) -> web.StreamResponse:
    """A style sheet, script or picture of the dashboard."""
    found = _FILES.get(call.request.match_info["file"])
    if found is None:
        raise Refusal(404, "There is nothing at this address")
    content, kind, tag = found
    if call.request.headers.get("If-None-Match") == tag:
        return web.Response(status=304, headers={"ETag": tag})
    return web.Response(
        body=content, content_type=kind, charset="utf-8", headers={"ETag": tag, "Cache-Control": "no-cache"}
    )


def _files() -> dict[str, tuple[bytes, str, str]]:
    return {
        path.name: (
            content := path.read_bytes(),
            _TYPES[path.suffix],
            f'"{hashlib.sha256(content).hexdigest()[:16]}"',
        )
        for path in _STATIC.iterdir()
        if path.suffix in _TYPES
    }


_FILES: Final = _files()


def _page(method: str, path: str, handler: Handler, need: Need = Need.SESSION) -> Operation:
    return Operation(method=method, path=path, handler=handler, need=need, hidden=True)


OPERATIONS: Final = (
    _page("GET", "/", overview),
    _page("GET", "/login", login_form, Need.PUBLIC),
    _page("POST", "/login", login, Need.PUBLIC),
    _page("POST", "/logout", logout),
    _page("GET", "/live", page(live.overview)),
    _page("GET", "/tenants", tenants),
    _page("GET", "/tenants/{tenant}", tenant),
    _page("GET", "/tenants/{tenant}/live", page(live.tenant)),
    _page("POST", "/tenants/{tenant}/{action}", act),
    _page("GET", "/services", services),
    _page("GET", "/certificates", certificates),
    _page("GET", "/events", events),
    _page("GET", "/static/{file}", static, Need.PUBLIC),
)
