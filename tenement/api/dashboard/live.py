"""What brings open pages up to date, as server-sent events: changes, counts, usage and log lines."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final

from aiohttp import web

from tenement.api.dashboard import view
from tenement.api.event_stream import EventStream
from tenement.api.logs import entry_of
from tenement.api.manager import Manager
from tenement.api.operation import Call
from tenement.names import service_slice

_COUNTS_S: Final = 1.0
_USAGE_S: Final = 2.0
_HISTORY_S: Final = 300.0
_LINES: Final = 200
_NOT_COUNTED: Final = 2**64 - 1


def group_counts(services: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many tenants of all services are in each group of states."""
    counts: Counter[str] = Counter()
    for service in services:
        for state, count in service["states"].items():
            counts[view.group_of(state)] += count
    return {group: counts[group] for group in view.GROUPS}


async def slice_numbers(manager: Manager, service: str) -> dict[str, int | None]:
    """Memory and CPU time of a service's tenants; None where they are not counted."""
    properties = await manager.slice_properties(service_slice(service))

    def counted(key: str) -> int | None:
        value = properties.get(key)
        return None if value is None or value == _NOT_COUNTED else int(value)

    return {"memory_bytes": counted("MemoryCurrent"), "cpu_nsec": counted("CPUUsageNSec")}


def change_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the browser has to know of a tenant that changed."""
    state = str(document.get("state", ""))
    return {
        "tenant": document.get("tenant"),
        "state": state,
        "group": "sick" if document.get("health") in view.SICK else view.group_of(state),
        "reason": document.get("reason") or "",
        "since": document.get("since"),
        "health": document.get("health") or "",
        "weight": document.get("weight"),
        "leases": document.get("leases", 0),
    }


async def overview(call: Call) -> web.StreamResponse:
    """Follow all tenants: each change, and the counts, at most once a second."""
    changed = asyncio.Event()
    async with (
        call.context.manager.events(call.token) as lines,
        EventStream(call) as events,
        asyncio.TaskGroup() as group,
    ):
        counting = group.create_task(_count(call, events, changed))
        async for document in _documents(lines):
            await events.send("tenant", change_of(document))
            changed.set()
        counting.cancel()
    return events.response


async def tenant(call: Call) -> web.StreamResponse:
    """Follow one tenant: its changes, what it uses, and its log."""
    name = call.name
    manager = call.context.manager
    await call.act("Health", "ss", name.service, name.id)
    async with (
        manager.events(call.token) as lines,
        manager.logs(call.token, name.service, name.id, lines=_LINES, follow=True) as entries,
        EventStream(call) as events,
        asyncio.TaskGroup() as group,
    ):
        tasks = [
            group.create_task(_measure(call, events)),
            group.create_task(_pass_on_log(entries, events)),
        ]
        async for document in _documents(lines):
            if document.get("tenant") == str(name):
                await events.send("tenant", change_of(document))
        for task in tasks:
            task.cancel()
    return events.response


async def _count(call: Call, events: EventStream, changed: asyncio.Event) -> None:
    while True:
        await changed.wait()
        await asyncio.sleep(_COUNTS_S)
        changed.clear()
        services = await call.act("Services")
        states = {each["service"]: each["states"] for each in services}
        await events.send("counts", {"groups": group_counts(services), "services": states})


async def _measure(call: Call, events: EventStream) -> None:
    # What pages of this tenant saw in the last minutes, so that a new one does not begin with empty lines.
    history = call.context.history(str(call.name))
    for each in list(history):
        if time.time() - each["time"] < _HISTORY_S:
            await events.send("usage", each)
    while True:
        found = await call.act("Usage", "s", str(call.name))
        history.append(found[0])
        await events.send("usage", found[0])
        await asyncio.sleep(_USAGE_S)


async def _pass_on_log(entries: AsyncIterator[bytes], events: EventStream) -> None:
    async for line in entries:
        entry = entry_of(line)
        if entry is not None:
            await events.send("log", entry)


async def _documents(lines: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    async for line in lines:
        document = json.loads(line)
        if isinstance(document, dict):
            yield document
