"""Operations on tenants."""

import json
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from tenement.api import answers
from tenement.api.operation import Call, Need, Operation
from tenement.api.problems import Refusal

_ACTION_TIMEOUT_S: Final = 2 * 3600.0
_CHANGE_PROBLEMS: Final = (400, 404, 409, 500, 502, 503, 504)


def json_response(document: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """An answer of JSON."""
    body = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


async def list_(call: Call) -> web.Response:
    """List tenants."""
    query: answers.ListQuery = call.query
    found = await call.act(
        "Find",
        "ssssuu",
        query.service or "",
        query.state or "",
        query.search,
        query.sort,
        query.limit,
        query.offset,
    )
    headers = {"X-Total-Count": str(found["total"])}
    if query.offset + query.limit < found["total"]:
        following = {**call.request.query, "limit": query.limit, "offset": query.offset + query.limit}
        headers["Link"] = f'<{call.request.path}?{urlencode(following)}>; rel="next"'
    return json_response(found["tenants"], headers=headers)


async def spawn(call: Call) -> web.Response:
    """Make a tenant, and start it."""
    body: answers.SpawnBody = call.body
    service = body.service or body.process
    if not service or (body.service and body.process):
        raise Refusal(400, "The body is wrong: it needs either `service` or `process`")
    await call.act("Spawn", "ssb", service, body.id, body.start, timeout_s=_ACTION_TIMEOUT_S)
    entry = (await call.act("List", "s", f"{service}:{body.id}"))[0]
    address = str(entry["address"] or "")
    content = {
        "instance": entry["tenant"],
        "url": entry["url"],
        "state": entry["state"],
        "port": int(address.rpartition(":")[2]) if address.startswith("127.") else None,
        "socket": address.removeprefix("unix:") if address.startswith("unix:") else None,
    }
    return json_response(content, 201, {"Location": f"/api/instances/{entry['tenant']}"})


async def status(call: Call) -> web.Response:
    """Tell everything about a tenant."""
    return json_response(await call.act("Status", "ss", call.name.service, call.name.id))


async def change(call: Call) -> web.Response:
    """Change a tenant's weight, or whether requests may wake it."""
    body: answers.ChangeBody = call.body
    if isinstance(body.weight, int | float):
        await _set_weight(call, body.weight)
    if isinstance(body.enabled, bool):
        await _do(call, "Enable" if body.enabled else "Disable")
    return await status(call)


async def remove(call: Call) -> web.Response:
    """Stop and forget a tenant; its data is kept unless `purge` is set."""
    name = call.name
    await call.act("Remove", "ssb", name.service, name.id, call.query.purge, timeout_s=_ACTION_TIMEOUT_S)
    return web.Response(status=204)


async def restart(call: Call) -> web.Response:
    """Stop a tenant once its requests have ended, and start it."""
    await _do(call, "Restart")
    return await status(call)


async def stop(call: Call) -> web.Response:
    """Put a tenant to sleep; the next request wakes it."""
    await _do(call, "Stop")
    return await status(call)


async def enable(call: Call) -> web.Response:
    """Let requests wake a tenant again."""
    await _do(call, "Enable")
    return await status(call)


async def disable(call: Call) -> web.Response:
    """Stop a tenant and answer requests for it with 503."""
    await _do(call, "Disable")
    return await status(call)


async def weight(call: Call) -> web.Response:
    """Set a tenant's share of the requests for its service as a whole."""
    await _set_weight(call, call.body.weight)
    return await status(call)


async def health(call: Call) -> web.Response:
    """Tell how a tenant is, without waking it."""
    return json_response(await call.act("Health", "ss", call.name.service, call.name.id))


async def storage(call: Call) -> web.Response:
    """Tell how much room a tenant's data takes, without waking it."""
    found = await call.act("Storage", "ss", call.name.service, call.name.id, timeout_s=300.0)
    return json_response(found)


async def _do(call: Call, member: str) -> None:
    await call.act(member, "ss", call.name.service, call.name.id, timeout_s=_ACTION_TIMEOUT_S)


async def _set_weight(call: Call, weight: float) -> None:
    await call.act("SetWeight", "ssu", call.name.service, call.name.id, int(weight))


_ONE: Final = "/api/instances/{tenant}"


def _action(name: str, handler: Any) -> Operation:
    return Operation(
        method="POST",
        path=f"{_ONE}/{name}",
        handler=handler,
        need=Need.ADMIN,
        answer=answers.InstanceDetail,
        problems=_CHANGE_PROBLEMS,
    )


async def usage(call: Call) -> web.Response:
    """List what the tenants that are not asleep use, and how many requests they have answered."""
    return json_response(await call.act("Usage", "s", ""))


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/api/usage",
        handler=usage,
        need=Need.ADMIN,
        answer=list[answers.Usage],
        problems=(400,),
    ),
    Operation(
        method="GET",
        path="/api/instances",
        handler=list_,
        need=Need.ADMIN,
        query=answers.ListQuery,
        answer=list[answers.Instance],
        problems=(400, 404),
    ),
    Operation(
        method="POST",
        path="/api/instances/spawn",
        handler=spawn,
        need=Need.ADMIN,
        body=answers.EitherService,
        answer=answers.SpawnAnswer,
        status=201,
        problems=(*_CHANGE_PROBLEMS, 413, 415),
    ),
    Operation(
        method="GET",
        path=_ONE,
        handler=status,
        need=Need.ADMIN,
        answer=answers.InstanceDetail,
        problems=(400, 404),
    ),
    Operation(
        method="PATCH",
        path=_ONE,
        handler=change,
        need=Need.ADMIN,
        body=answers.ChangeBody,
        answer=answers.InstanceDetail,
        problems=(*_CHANGE_PROBLEMS, 413, 415),
    ),
    Operation(
        method="DELETE",
        path=_ONE,
        handler=remove,
        need=Need.ADMIN,
        query=answers.RemoveQuery,
        status=204,
        problems=_CHANGE_PROBLEMS,
    ),
    _action("restart", restart),
    _action("stop", stop),
    _action("enable", enable),
    _action("disable", disable),
    Operation(
        method="PUT",
        path=f"{_ONE}/weight",
        handler=weight,
        need=Need.ADMIN,
        body=answers.WeightBody,
        answer=answers.InstanceDetail,
        problems=(*_CHANGE_PROBLEMS, 413, 415),
    ),
    Operation(
        method="GET",
        path=f"{_ONE}/health",
        handler=health,
        need=Need.OWN,
        answer=answers.Health,
        problems=(400, 404),
    ),
    Operation(
        method="GET",
        path=f"{_ONE}/storage",
        handler=storage,
        need=Need.OWN,
        answer=answers.Storage,
        problems=(400, 404),
    ),
)
