"""Tenants' log lines for callers who may not read the journal: a pipe that journalctl writes into.

The manager hands out the pipe and looks at no line. It ends journalctl when the reader has gone, which a
journalctl that waits for new lines would not notice by itself.
"""

import asyncio
import contextlib
import os
import select
from typing import Any, Final

from tenement.errors import InvalidName, Overloaded
from tenement.names import TenantName

LEVELS: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
"""Names of journald's priorities, most urgent first; a level stands for itself and the more urgent ones."""

LINES_MAX: Final = 100_000
"""How many lines of the past may be asked for at a time."""

_STREAMS_MAX: Final = 64
_FIELDS: Final = "MESSAGE,PRIORITY,_PID,TENANT,_SYSTEMD_UNIT"


class LogStreams:
    """All streams that are open."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(
        self, units: str, lines: int, since_s: float, level: str, cursor: str, *, follow: bool
    ) -> int:
        """The end to read of a stream of journal entries as JSON lines; the caller closes it.

        Newest first; with `follow` oldest first, and new ones as they come. `units` is one unit or a pattern
        of ours, `since_s` seconds since 1970 or 0, `level` one of LEVELS or "", `cursor` the entry to go on
        after when not following. Raises InvalidName, Overloaded.
        """
        if level and level not in LEVELS:
            raise InvalidName.of("level", level, f"must be one of {', '.join(LEVELS)}")
        if not 0 < lines <= LINES_MAX:
            raise InvalidName.of("number of lines", str(lines), f"must be from 1 to {LINES_MAX}")
        if len(self._tasks) >= _STREAMS_MAX:
            raise Overloaded(f"{_STREAMS_MAX} log streams are open already", retry_after_s=2.0)
        options = [f"--unit={units}", f"--lines={lines}", "--output=json", f"--output-fields={_FIELDS}"]
        options += ["--quiet", "--all", "--follow" if follow else "--reverse"]
        if since_s > 0:
            options.append(f"--since=@{since_s:.6f}")
        if level:
            options.append(f"--priority={level}")
        if cursor:
            options.append(f"--cursor={cursor}")
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            child = await asyncio.create_subprocess_exec(
                "journalctl",
                *options,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write,
                stderr=asyncio.subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            )
        except BaseException:
            os.close(read)
            os.close(write)
            raise
        task = asyncio.create_task(_attend(child, write))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return read

    async def close(self) -> None:
        """End every stream."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def unit_pattern(service: str, id_: str) -> str:
    """The units of a tenant, or with an empty id of all tenants of a service. Raises InvalidName."""
    if id_:
        return TenantName(service, id_).unit
    # Labels hold no character that means something in a pattern.
    return TenantName(service, "x").unit.replace("@x.", "@*.")


def _notice(abandoned: asyncio.Future[None]) -> None:
    if not abandoned.done():
        abandoned.set_result(None)


async def _attend(child: asyncio.subprocess.Process, write: int) -> None:
    """Wait until journalctl ends or nobody reads any more, and see to it that it has ended."""
    loop = asyncio.get_running_loop()
    abandoned: asyncio.Future[None] = loop.create_future()
    # A pipe without a reader reports an error to whoever polls its other end, whatever is asked for.
    poll = select.epoll()
    poll.register(write, 0)
    loop.add_reader(poll.fileno(), _notice, abandoned)
    ended = asyncio.ensure_future(child.wait())
    try:
        waited: tuple[asyncio.Future[Any], ...] = (ended, abandoned)
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    finally:
        loop.remove_reader(poll.fileno())
        poll.close()
        os.close(write)
        abandoned.cancel()
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await ended
