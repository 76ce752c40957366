"""Operations on the host as a whole: configuration, tokens, events, services; and a sign of life."""

from typing import Final

from aiohttp import web

from tenement import __version__
from tenement.api import answers
from tenement.api.instances import json_response
from tenement.api.operation import Call, Need, Operation


async def alive(_: Call) -> web.Response:
    """Tell that the API is there; asks nobody and wakes nobody."""
    return json_response({"status": "ok"})


async def version(_: Call) -> web.Response:
    """Tell the version that runs."""
    return json_response({"version": __version__})


async def reload(call: Call) -> web.Response:
    """Make the manager read its configuration again."""
    return json_response(await call.act("Reload", timeout_s=120.0))


async def services(call: Call) -> web.Response:
    """List services, with how many of their tenants are in which state."""
    return json_response(await call.act("Services"))


async def events(call: Call) -> web.Response:
    """List what happened lately, newest first."""
    found = await call.act("Events", "s", call.query.tenant)
    return json_response(found[: call.query.limit])


async def list_tokens(call: Call) -> web.Response:
    """List tokens, without their texts."""
    return json_response(await call.act("ListTokens"))


async def create_token(call: Call) -> web.Response:
    """Make a token; its text is in the answer and nowhere else."""
    body: answers.TokenBody = call.body
    made = await call.act(
        "CreateToken", "sssd", body.scope, str(body.tenant or ""), body.name, body.expires_s or 0.0
    )
    return json_response(made, 201)


async def revoke_token(call: Call) -> web.Response:
    """End a token and the sessions made with it, at once."""
    await call.act("RevokeToken", "s", call.request.match_info["token"])
    return web.Response(status=204)


OPERATIONS: Final = (
    Operation(
        method="GET", path="/health", handler=alive, need=Need.PUBLIC, answer=answers.Alive, problems=(400,)
    ),
    Operation(
        method="GET",
        path="/api/version",
        handler=version,
        need=Need.ADMIN,
        answer=answers.Version,
        problems=(400,),
    ),
    Operation(
        method="POST",
        path="/api/reload",
        handler=reload,
        need=Need.ADMIN,
        answer=answers.ReloadReport,
        problems=(400, 422, 500, 503),
    ),
    Operation(
        method="GET",
        path="/api/services",
        handler=services,
        need=Need.ADMIN,
        answer=list[answers.Document],
        problems=(400,),
    ),
    Operation(
        method="GET",
        path="/api/events",
        handler=events,
        need=Need.ADMIN,
        query=answers.EventQuery,
        answer=list[answers.Event],
        problems=(400,),
    ),
    Operation(
        method="GET",
        path="/api/tokens",
        handler=list_tokens,
        need=Need.ADMIN,
        answer=list[answers.Token],
        problems=(400,),
    ),
    Operation(
        method="POST",
        path="/api/tokens",
        handler=create_token,
        need=Need.ADMIN,
        body=answers.NEW_TOKEN,
        answer=answers.NewToken,
        status=201,
        problems=(400, 404, 413, 415, 503),
    ),
    Operation(
        method="DELETE",
        path="/api/tokens/{token}",
        handler=revoke_token,
        need=Need.ADMIN,
        status=204,
        problems=(400, 404),
    ),
)
