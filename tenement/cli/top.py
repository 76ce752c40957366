"""`ten top`: what tenants use and answer, live, in the manner of systemd-cgtop(1)."""

import contextlib
import os
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from tenement.cli.tenants import run
from tenement.cli.text import Screen, out, size, table
from tenement.client import Client

type Entry = dict[str, Any]

_HEADER: Final = ("TENANT", "STATE", "REQ/S", "ERR/S", "%CPU", "MEMORY", "TASKS", "LEASES", "SENT/S")
_CLEAR: Final = "\x1b[H\x1b[J"
_ALTERNATE: Final = ("\x1b[?1049h\x1b[?25l", "\x1b[?1049l\x1b[?25h")
ORDERS: Final = ("requests", "cpu", "memory", "name")
_KEYS: Final = {"r": "requests", "c": "cpu", "m": "memory", "n": "name"}


def top(order: str, delay_s: float, iterations: int) -> int:
    """Show tenants that are not asleep, until q, ^C, or after so many rounds (0: without end)."""
    live = sys.stdout.isatty() and sys.stdin.isatty() and not iterations
    rounds = iterations or (0 if live else 1)

    async def work(client: Client) -> None:
        nonlocal order
        before = await client.usage()
        done = 0
        with _keys(live) as pressed:
            while True:
                key = pressed(delay_s)
                if key in ("q", "\x03"):
                    return
                order = _KEYS.get(key, order)
                now = await client.usage()
                show(lines(before, now, order), whole_screen=live)
                before = now
                done += 1
                if rounds and done >= rounds:
                    return

    run(work)
    return 0


def lines(
    before: Sequence[Entry], now: Sequence[Entry], order: str, screen: Screen | None = None
) -> list[str]:
    """The table: rates between two looks."""
    earlier = {each["tenant"]: each for each in before}
    rates = [_rates(each, earlier.get(each["tenant"])) for each in now]
    rates.sort(key=lambda each: each["tenant"])
    if order != "name":
        rates.sort(key=lambda each: each[order] if each[order] is not None else -1.0, reverse=True)
    rows = [
        [
            str(each["tenant"]),
            str(each["state"]),
            _rate(each["requests"]),
            _rate(each["errors"]),
            "-" if each["cpu"] is None else f"{each['cpu']:.1f}",
            "-" if each["memory"] is None else size(each["memory"]),
            "-" if each["tasks"] is None else str(each["tasks"]),
            str(each["leases"]),
            size(each["sent"]),
        ]
        for each in rates
    ]
    return table(_HEADER, rows, screen or Screen.of(sys.stdout))


def show(text: Sequence[str], *, whole_screen: bool) -> None:
    """Write the table, on a screen of its own as far as there is room."""
    if whole_screen:
        room = shutil.get_terminal_size().lines - 1
        sys.stdout.write(_CLEAR + "\r\n".join(text[:room]))
        sys.stdout.flush()
        return
    for line in text:
        out(line)


def _rates(now: Entry, before: Entry | None) -> Entry:
    span_s = now["time"] - before["time"] if before else 0.0

    def rate(key: str) -> float | None:
        if before is None or span_s <= 0 or now[key] is None or before[key] is None:
            return 0.0 if now[key] is not None else None
        return max(0.0, float(now[key] - before[key]) / span_s)

    cpu = rate("cpu_usec")
    return {
        "tenant": now["tenant"],
        "state": now["state"],
        "leases": now["leases"],
        "tasks": now["tasks"],
        "memory": now["memory_bytes"],
        "requests": rate("requests"),
        "errors": rate("errors"),
        "sent": rate("sent_bytes") or 0.0,
        "cpu": None if cpu is None else cpu / 1e4,
    }


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


@contextlib.contextmanager
def _keys(live: bool) -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds for a key and gives it; "" if none was pressed."""
    if not live:

        def wait(delay_s: float) -> str:
            time.sleep(delay_s)
            return ""

        yield wait
        return
    fd = sys.stdin.fileno()
    saved = termios.tcgetattr(fd)

    def key(delay_s: float) -> str:
        ready, _, _ = select.select([fd], [], [], delay_s)
        return os.read(fd, 1).decode(errors="replace") if ready else ""

    sys.stdout.write(_ALTERNATE[0])
    try:
        tty.setcbreak(fd)
        yield key
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)
        sys.stdout.write(_ALTERNATE[1])
        sys.stdout.flush()
