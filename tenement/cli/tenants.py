"""What `ten` does to tenants: one function for many of them, whatever is done."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Final

from tenement.cli.entry import report
from tenement.cli.text import out, out_json
from tenement.client import Client
from tenement.errors import Denied, Internal, TenementError, Unreachable
from tenement.names import TenantName

_AT_A_TIME: Final = 32
"""Calls in flight on one connection; the bus allows few more to an unprivileged user."""

type Action = Callable[[Client, TenantName], Awaitable[None]]


def run[T](work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    """Runs some work with a connection to the manager, or to the server that was chosen."""
    from tenement.cli.destination import connection

    async def connected() -> T:
        async with connection() as client:
            return await work(client)

    return asyncio.run(connected())


def act(names: Sequence[str], action: Action) -> int:
    """Does something to each of some tenants, several at a time.

    All names are read before anything is done. Each failure is reported; the result is the exit status of the
    first one, in the order of the names.
    """
    tenants = parse_all(names)

    async def work(client: Client) -> list[TenementError | None]:
        slots = asyncio.Semaphore(_AT_A_TIME)

        async def one(name: TenantName) -> TenementError | None:
            async with slots:
                try:
                    await action(client, name)
                except (Denied, Unreachable):
                    # The same for all tenants: said once.
                    raise
                except TenementError as error:
                    return error
            return None

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(name)) for name in tenants]
        return [task.result() for task in tasks]

    try:
        results = run(work)
    except* TenementError as errors:
        raise _first(errors) from None
    statuses = [report(error, str(name)) for name, error in zip(tenants, results, strict=True) if error]
    return statuses[0] if statuses else 0


def spawn(names: Sequence[str], *, start: bool, as_json: bool) -> int:
    """Makes tenants, and tells the address of each and how long it took."""
    found: list[dict[str, object]] = []

    async def one(client: Client, name: TenantName) -> None:
        began = time.monotonic()
        await client.spawn(name.service, name.id, start=start)
        took_s = time.monotonic() - began
        entry = next(iter(await client.list(str(name))), {})
        url = entry.get("url")
        found.append({"tenant": str(name), "url": url, "started": start, "seconds": round(took_s, 3)})
        if not as_json:
            done = f"started in {took_s:.2f} s" if start else "not started"
            out("  ".join(str(part) for part in (name, url, done) if part))

    status = act(names, one)
    if as_json:
        out_json(found)
    return status


def parse_all(names: Sequence[str]) -> list[TenantName]:
    """Tenants' names, each once. Raises InvalidName for the first that is none."""
    return list(dict.fromkeys(map(TenantName.parse, names)))


def _first(errors: BaseExceptionGroup[TenementError]) -> TenementError:
    for error in errors.exceptions:
        if isinstance(error, TenementError):
            return error
        if isinstance(error, BaseExceptionGroup):
            return _first(error)
    return Internal(str(errors))
