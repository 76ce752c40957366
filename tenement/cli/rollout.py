"""`ten rollout` and `ten rollback`: a service's tenants move to another release."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tenement.cli.entry import complain
from tenement.cli.tenants import run
from tenement.cli.text import Screen, out, out_json, printable, span
from tenement.client import Client
from tenement.errors import Unreachable
from tenement.names import TenantName, check_service

VERBS: Final = ("status", "resume", "abort", "unpin")

_STOPPED_STATUS: Final = 6
_LOOK_S: Final = 0.2
_PATIENCE_S: Final = 60.0
_BAR: Final = 30
_FINISHED: Final = ("done", "skipped", "failed")

type Begin = Callable[[Client], Awaitable[None]]


def begin(selector: str, release: str, *, canary: str, batch: int, pause_after: str, wait: bool) -> int:
    """Begins a rollout and follows it to its end, or only begins it."""
    service = TenantName.parse(selector).service if ":" in selector else check_service(selector)
    return _start(
        service,
        lambda client: client.roll_out(
            selector, release, canary=canary, batch=batch, pause_after=pause_after
        ),
        wait=wait,
    )


def back(service: str, *, wait: bool) -> int:
    """Begins to go back to the release before, and follows it."""
    check_service(service)
    return _start(service, lambda client: client.roll_back(service), wait=wait)


def resume(service: str, *, wait: bool) -> int:
    """Goes on with a rollout, and follows it."""
    check_service(service)
    return _start(service, lambda client: client.resume_rollout(service), wait=wait)


def abort(service: str) -> int:
    """Ends a rollout, and says what is where."""
    check_service(service)
    run(lambda client: client.abort_rollout(service))
    return status(service, as_json=False)


def unpin(tenant: str) -> int:
    """Lets rollouts move a pinned tenant again."""
    name = TenantName.parse(tenant)
    run(lambda client: client.unpin(name.service, name.id))
    return 0


def status(service: str, *, as_json: bool) -> int:
    """Shows the last rollout of a service."""
    check_service(service)
    found = run(lambda client: client.rollout_status(service))
    if as_json:
        out_json(found)
    else:
        for line in described(found):
            out(line)
    return 0


def described(found: dict[str, Any]) -> list[str]:
    """A rollout in a few lines."""
    reason = f": {found['reason']}" if found["reason"] else ""
    releases = ", ".join(f"{count} on {name or 'none'}" for name, count in sorted(found["releases"].items()))
    lines = [
        f"{found['service']}  {found['kind']} {found['from'] or 'none'} -> {found['to']}  "
        f"{found['state']}{reason}",
        f"  {progress(found)}",
        f"  tenants: {releases or 'none'}",
    ]
    lines += [f"  failed: {reason or name}" for name, reason in found["failed"].items()]
    return [printable(line) for line in lines]


def progress(found: dict[str, Any]) -> str:
    """The bar, the counts and the estimate."""
    counts, total = found["counts"], found["total"]
    ended = sum(counts[step] for step in _FINISHED)
    filled = _BAR * ended // total if total else _BAR
    parts = [f"[{'#' * filled}{'.' * (_BAR - filled)}] {ended}/{total}"]
    active = counts["preparing"] + counts["starting"] + counts["reverting"]
    parts += [
        f"{number} {word}" for number, word in ((active, "moving"), (counts["failed"], "failed")) if number
    ]
    if found["left_s"] is not None:
        parts.append(f"about {span(found['left_s'])} left")
    return "  ".join(parts)


def _start(service: str, start: Begin, *, wait: bool) -> int:
    async def begin_only(client: Client) -> None:
        await start(client)

    run(begin_only)
    if not wait:
        out(f"{service}: under way. See 'ten rollout status {service}'.")
        return 0
    try:
        return asyncio.run(_follow(service))
    except KeyboardInterrupt:
        complain(f"the rollout goes on. See 'ten rollout status {service}', 'ten rollout abort {service}'")
        raise


async def _follow(service: str) -> int:
    """Shows the progress until the rollout ends or stands still; a restart of the manager is waited out."""
    screen = Screen.of(sys.stdout)
    lost_s = 0.0
    while True:
        try:
            async with Client() as client:
                found = await _watch(client, service, screen)
            break
        except Unreachable:
            lost_s += _LOOK_S
            if lost_s > _PATIENCE_S:
                raise
            await asyncio.sleep(_LOOK_S)
    if screen.width is not None:
        sys.stdout.write("\r\x1b[K")
    for line in described(found):
        out(line)
    match found["state"]:
        case "done":
            return 0
        case "paused":
            out(f"Go on with 'ten rollout resume {service}', or end it with 'ten rollout abort {service}'.")
            return 0
        case _:
            complain(f"{service}: the rollout is {found['state']}: {found['reason']}")
            return _STOPPED_STATUS


async def _watch(client: Client, service: str, screen: Screen) -> dict[str, Any]:
    while True:
        found = await client.rollout_status(service)
        if found["state"] != "running":
            return found
        if screen.width is not None:
            sys.stdout.write(f"\r\x1b[K{progress(found)[: screen.width - 1]}")
            sys.stdout.flush()
        await asyncio.sleep(_LOOK_S)
