"""Operations on tenants' logs. Whatever an app printed is passed on as a string of JSON, never as HTML."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any, Final

from aiohttp import web

from tenement.api import answers
from tenement.api.event_stream import EventStream
from tenement.api.instances import json_response
from tenement.api.operation import Call, Need, Operation
from tenement.manager.log_streams import LEVELS

_SCANNED_MAX: Final = 100_000
_SCAN_TIMEOUT_S: Final = 20.0
_MESSAGE_MAX: Final = 16 * 1024
_UNIT: Final = re.compile(r"tenement-([a-z0-9-]+)@([a-z0-9-]+)(?:\.next)?\.service")


def entry_of(line: bytes) -> dict[str, Any] | None:
    """A line of the API from an entry as journalctl writes it; None if it is none of a tenant's."""
    try:
        entry = json.loads(line)
        message = entry.get("MESSAGE")
        if isinstance(message, list):
            # Bytes that are no UTF-8 come as numbers; a message with a line end in it as several.
            parts = (
                message
                if message and isinstance(message[0], str)
                else [bytes(message).decode(errors="replace")]
            )
            message = "\n".join(map(str, parts))
        tenant = str(entry.get("TENANT") or "")
        unit = _UNIT.fullmatch(str(entry.get("_SYSTEMD_UNIT") or ""))
        service, _, id_ = (":".join(unit.groups()) if unit else tenant).partition(":")
        priority = int(entry.get("PRIORITY", 6))
        return {
            "timestamp": int(entry["__REALTIME_TIMESTAMP"]) / 1e6,
            "level": LEVELS[priority] if 0 <= priority < len(LEVELS) else "info",
            "service": service,
            "id": id_,
            "message": str(message or "")[:_MESSAGE_MAX],
            "cursor": str(entry.get("__CURSOR", "")),
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


async def matching(lines: AsyncIterator[bytes], search: str) -> AsyncIterator[dict[str, Any]]:
    """The entries whose message has `search` in it, whatever the case."""
    wanted = search.casefold()
    async for line in lines:
        entry = entry_of(line)
        if entry is not None and wanted in entry["message"].casefold():
            yield entry


async def read(call: Call) -> web.Response:
    """Give lines of the past, oldest first: the newest that match."""
    query: answers.LogQuery = call.query
    found: list[dict[str, Any]] = []
    lines = _SCANNED_MAX if query.search else query.limit
    async with call.context.manager.logs(
        call.token,
        query.service,
        str(query.id or ""),
        lines=lines,
        since_s=query.since,
        level=str(query.level or ""),
    ) as stream:
        try:
            async with asyncio.timeout(_SCAN_TIMEOUT_S):
                async for entry in matching(stream, query.search):
                    found.append(entry)
                    if len(found) >= query.limit:
                        break
        except TimeoutError:
            pass  # What was found until then is an answer too.
    return json_response(found[::-1])


async def follow(call: Call) -> web.StreamResponse:
    """Give the last lines and then new ones as they come, as server-sent events."""
    query: answers.LogQuery = call.query
    async with (
        call.context.manager.logs(
            call.token,
            query.service,
            str(query.id or ""),
            lines=query.limit,
            since_s=query.since,
            level=str(query.level or ""),
            follow=True,
        ) as stream,
        EventStream(call) as events,
    ):
        async for entry in matching(stream, query.search):
            await events.send("log", entry)
    return events.response


def _logs(path: str, handler: Any, answer: Any, media_type: str) -> Operation:
    return Operation(
        method="GET",
        path=path,
        handler=handler,
        need=Need.OWN,
        query=answers.LogQuery,
        answer=answer,
        media_type=media_type,
        problems=(400, 503),
    )


OPERATIONS: Final = (
    _logs("/api/logs", read, list[answers.LogLine], "application/json"),
    _logs("/api/logs/stream", follow, None, "text/event-stream"),
)
