"""Operations on versions side by side, on rollouts, on domains and on certificates."""

from typing import Any, Final

from aiohttp import web

from tenement.api import answers
from tenement.api.instances import json_response
from tenement.api.operation import Call, Need, Operation
from tenement.api.problems import Refusal

_ACTION_TIMEOUT_S: Final = 2 * 3600.0
_WEIGHT: Final = 100


async def deploy(call: Call) -> web.Response:
    """Start a version, and give it its share of the requests once it is healthy."""
    body: answers.DeployBody = call.body
    service, id_ = _either(body.service, body.process), _either(body.id, body.version)
    weight, timeout_ms = int(body.weight), int(body.timeout * 1000)
    await call.act("Deploy", "ssuu", service, id_, weight, timeout_ms, timeout_s=_ACTION_TIMEOUT_S)
    return json_response({"instance": f"{service}:{id_}", "weight": weight, "status": "healthy"})


async def route(call: Call) -> web.Response:
    """Move all requests for a service from one tenant to another, at once."""
    body: answers.RouteBody = call.body
    service = _either(body.service, body.process)
    await call.act("Route", "sss", service, body.from_, body.to, timeout_s=_ACTION_TIMEOUT_S)
    page = await call.act("Find", "ssssuu", service, "", "", "tenant", 1_000_000, 0)
    weights = {each["tenant"]: each["weight"] for each in page["tenants"]}
    source, target = f"{service}:{body.from_}", f"{service}:{body.to}"
    return json_response(
        {
            "from_instance": source,
            "to_instance": target,
            "from_weight": weights.get(source, 0),
            "to_weight": weights.get(target, _WEIGHT),
        }
    )


async def roll_out(call: Call) -> web.Response:
    """Begin to move a service's tenants, or one tenant, to a release."""
    body: answers.RolloutBody = call.body
    await call.act(
        "RollOut", "sssus", body.selector, body.release, body.canary, int(body.batch), body.pause_after
    )
    return await _rollout(call, body.selector.partition(":")[0], 202)


async def rollout(call: Call) -> web.Response:
    """Tell how the last rollout of a service stands."""
    return await _rollout(call, _service(call))


async def resume(call: Call) -> web.Response:
    """Go on with a rollout that paused or stopped."""
    await call.act("ResumeRollout", "s", _service(call))
    return await _rollout(call, _service(call), 202)


async def abort(call: Call) -> web.Response:
    """End a rollout where it is."""
    await call.act("AbortRollout", "s", _service(call))
    return await _rollout(call, _service(call))


async def roll_back(call: Call) -> web.Response:
    """Begin to move a service's tenants to the releases that they were on before."""
    await call.act("RollBack", "s", _service(call))
    return await _rollout(call, _service(call), 202)


async def unpin(call: Call) -> web.Response:
    """Let rollouts move a pinned tenant again."""
    await call.act("Unpin", "ss", call.name.service, call.name.id)
    return web.Response(status=204)


async def list_domains(call: Call) -> web.Response:
    """List custom domains: all, or those of a service or tenant."""
    return json_response(await call.act("ListDomains", "s", call.query.selector))


async def add_domain(call: Call) -> web.Response:
    """Give a domain to a tenant."""
    service, colon, id_ = call.body.tenant.partition(":")
    if not colon:
        raise Refusal(400, "The body is wrong: `tenant` must be SERVICE:ID")
    domain = await call.act("AddDomain", "sss", service, id_, call.body.domain, plain=True)
    return json_response({"domain": domain, "tenant": call.body.tenant}, 201)


async def remove_domain(call: Call) -> web.Response:
    """Take a domain from its tenant."""
    await call.act("RemoveDomain", "s", call.request.match_info["domain"])
    return web.Response(status=204)


async def tls_status(call: Call) -> web.Response:
    """List every name and its certificate, or why it has none."""
    return json_response(await call.act("TlsStatus"))


def _either(one: object, other: object) -> str:
    """The one of two names of a field that was sent. Raises Refusal for both and for none."""
    if bool(one) == bool(other):
        raise Refusal(
            400, "The body is wrong: it needs `service` or `process`, and `id` or `version`, not both"
        )
    return str(one or other)


def _service(call: Call) -> str:
    return call.request.match_info["service"]


async def _rollout(call: Call, service: str, status: int = 200) -> web.Response:
    return json_response(await call.act("RolloutStatus", "s", service), status)


def _operation(method: str, path: str, handler: Any, **more: Any) -> Operation:
    problems = (400, 404, 409, *more.pop("problems", ()))
    return Operation(method=method, path=path, handler=handler, need=Need.ADMIN, problems=problems, **more)


_BODY: Final = (413, 415)
_START: Final = (500, 502, 503, 504)
_ONE: Final = "/api/rollouts/{service}"

OPERATIONS: Final = (
    _operation(
        "POST",
        "/api/deploy",
        deploy,
        body=answers.EitherDeploy,
        answer=answers.DeployAnswer,
        problems=(*_BODY, *_START),
    ),
    _operation(
        "POST",
        "/api/route",
        route,
        body=answers.EitherRoute,
        answer=answers.RouteAnswer,
        problems=(*_BODY, *_START),
    ),
    _operation(
        "POST", "/api/rollouts", roll_out, body=answers.RolloutBody, answer=dict, status=202, problems=_BODY
    ),
    _operation("GET", _ONE, rollout, answer=dict),
    _operation("POST", f"{_ONE}/resume", resume, answer=dict, status=202),
    _operation("POST", f"{_ONE}/abort", abort, answer=dict),
    _operation("POST", f"{_ONE}/rollback", roll_back, answer=dict, status=202),
    _operation("POST", "/api/instances/{tenant}/unpin", unpin, status=204),
    _operation("GET", "/api/domains", list_domains, query=answers.DomainQuery, answer=list[answers.Domain]),
    _operation(
        "POST",
        "/api/domains",
        add_domain,
        body=answers.DomainBody,
        answer=answers.Domain,
        status=201,
        problems=_BODY,
    ),
    _operation("DELETE", "/api/domains/{domain}", remove_domain, status=204),
    _operation("GET", "/api/tls/status", tls_status, answer=dict),
)
