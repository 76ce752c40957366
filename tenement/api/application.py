"""The whole of the HTTP API as an application of aiohttp."""

from collections.abc import Sequence
from typing import Final

from aiohttp import web

from tenement.api import administration, exposition, instances, logs, openapi, releases
from tenement.api.context import CONTEXT, Context
from tenement.api.dashboard import pages
from tenement.api.guard import Guard, add_headers, finish
from tenement.api.instances import json_response
from tenement.api.manager import Manager
from tenement.api.operation import Call, Need, Operation


async def metrics(call: Call) -> web.Response:
    """Give every number in Prometheus's text format."""
    page = exposition.render(await exposition.collect(call.context.manager))
    return web.Response(body=page, headers={"Content-Type": exposition.CONTENT_TYPE})


async def describe(_: Call) -> web.Response:
    """Give the OpenAPI document."""
    return json_response(openapi.document(OPERATIONS))


OPERATIONS: Final[Sequence[Operation]] = (
    *administration.OPERATIONS,
    *instances.OPERATIONS,
    *logs.OPERATIONS,
    *releases.OPERATIONS,
    Operation(
        method="GET",
        path="/metrics",
        handler=metrics,
        need=Need.METRICS,
        media_type="text/plain",
        problems=(400,),
    ),
    Operation(
        method="GET",
        path="/api/openapi.json",
        handler=describe,
        need=Need.ADMIN,
        answer=dict,
        problems=(400,),
    ),
    *pages.OPERATIONS,
)
"""Everything that can be asked; what is not here does not exist."""


def make(manager: Manager, operations: Sequence[Operation] = OPERATIONS) -> web.Application:
    """The application."""
    application = web.Application(middlewares=[finish], client_max_size=1024 * 1024)
    application[CONTEXT] = Context(manager)
    for operation in operations:
        # A tenant's name has a colon: so no word of ours, such as "spawn", can be taken for one.
        path = operation.path.replace("{tenant}", "{tenant:[^{}/:]+:[^{}/]+}")
        application.router.add_route(operation.method, path, Guard(operation).handle)
    application.on_response_prepare.append(add_headers)

    async def close(_: web.Application) -> None:
        await manager.close()

    application.on_cleanup.append(close)
    return application
