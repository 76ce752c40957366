"""What `ten` tells about tenants: `ten ps` and `ten status`."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

from tenement.cli.entry import report
from tenement.cli.tenants import parse_all, run
from tenement.cli.text import Screen, ago, moment, out, out_json, printable, size, table
from tenement.client import Client
from tenement.errors import TenementError
from tenement.names import TenantName, check_service

type Entry = dict[str, Any]
"""What the manager tells of a tenant. Fields may be absent; those of another type are treated so."""

_STATE_COLOURS: Final = {
    "running": "green",
    "failed": "red",
    "backoff": "yellow",
    "disabled": "grey",
    "asleep": "grey",
    "armed": "grey",
    "frozen": "grey",
}
_HEADER: Final = ("TENANT", "STATE", "SINCE", "WEIGHT", "URL", "REASON")


def ps(selectors: Sequence[str], states: Sequence[str], *, as_json: bool, quiet: bool) -> int:
    """Lists tenants, of all services or of those asked for."""
    for selector in selectors:
        TenantName.parse(selector) if ":" in selector else check_service(selector)

    async def work(client: Client) -> list[Entry]:
        found: dict[str, Entry] = {}
        for selector in selectors or ("",):
            found |= {str(entry.get("tenant")): entry for entry in await client.list(selector)}
        return [found[name] for name in sorted(found)]

    entries = [entry for entry in run(work) if not states or entry.get("state") in states]
    if as_json:
        out_json(entries)
    elif quiet:
        for entry in entries:
            out(str(entry.get("tenant")))
    else:
        for line in listing(entries, Screen.of(sys.stdout), time.time()):
            out(line)
    return 0


def listing(entries: Iterable[Entry], screen: Screen, now: float) -> list[str]:
    """The lines of `ten ps`."""
    rows = [_row(entry, now) for entry in entries]
    lines = table(_HEADER, rows, screen)
    return [lines[0], *(_coloured(line, row, screen) for line, row in zip(lines[1:], rows, strict=True))]


def _row(entry: Entry, now: float) -> list[str]:
    since = entry.get("since")
    return [
        str(entry.get("tenant", "-")),
        str(entry.get("state", "-")),
        ago(since, now) if isinstance(since, int | float) else "-",
        str(entry.get("weight", "-")),
        str(entry.get("url") or "-"),
        printable(str(entry.get("reason") or "")),
    ]


def _coloured(line: str, row: Sequence[str], screen: Screen) -> str:
    """A line of the table with its state in colour; the name before it holds no such word."""
    at = len(row[0])
    before, state, after = line[:at], row[1], line[at:]
    return before + after.replace(state, screen.paint(state, _STATE_COLOURS.get(state)), 1)


def status(names: Sequence[str], *, as_json: bool) -> int:
    """Tells all there is to know of some tenants, or without any, how many are in which state."""
    tenants = parse_all(names)
    if not tenants:
        return _summary(as_json=as_json)

    async def work(client: Client) -> list[Entry | TenementError]:
        found: list[Entry | TenementError] = []
        for name in tenants:
            try:
                found.append(await client.status(name.service, name.id))
            except TenementError as error:
                found.append(error)
        return found

    results = run(work)
    known = [result for result in results if isinstance(result, dict)]
    if as_json:
        out_json(known)
    else:
        out_blocks([details(entry, time.time()) for entry in known])
    failures = [
        report(result, str(name))
        for name, result in zip(tenants, results, strict=True)
        if isinstance(result, TenementError)
    ]
    return failures[0] if failures else 0


def out_blocks(blocks: Iterable[Sequence[str]]) -> None:
    """Writes blocks of lines, an empty line between two."""
    for number, lines in enumerate(blocks):
        out("\n".join([""] * (number > 0) + list(lines)))


def _summary(*, as_json: bool) -> int:
    async def work(client: Client) -> tuple[str, list[Entry]]:
        return await client.version(), await client.list()

    version, entries = run(work)
    counts = Counter(str(entry.get("state")) for entry in entries)
    if as_json:
        out_json({"version": version, "tenants": len(entries), "states": dict(sorted(counts.items()))})
        return 0
    states = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    out(f"tenement {version}: {len(entries)} tenants{f' ({states})' if states else ''}")
    return 0


def details(entry: Entry, now: float) -> list[str]:
    """The lines of `ten status` for a tenant: what is known, in the manner of systemctl."""
    fields = [(label, value) for label, value in _fields(entry, now) if value]
    width = max((len(label) for label, _ in fields), default=0) + 2
    head = f"{entry.get('tenant', '-')} - {entry.get('state', '-')}"
    if (since := _number(entry, "since")) is not None:
        head += f" since {moment(since)}; {ago(since, now)}"
    return [head, *(f"{label:>{width}}: {printable(value)}" for label, value in fields)]


def _fields(entry: Entry, now: float) -> Iterable[tuple[str, str]]:
    yield "Reason", _text(entry, "reason")
    yield "URL", _text(entry, "url")
    yield "Unit", " in ".join(filter(None, (_text(entry, "unit"), _text(entry, "slice"))))
    yield "User", _text(entry, "user")
    data_bytes = _number(entry, "data_bytes")
    yield "Data", _text(entry, "data_dir") + (f" ({size(data_bytes)})" if data_bytes is not None else "")
    yield "Address", _text(entry, "address")
    yield "Leases", _text(entry, "leases")
    yield "Main PID", _text(entry, "main_pid")
    yield "Tasks", _text(entry, "tasks")
    memory_bytes = _number(entry, "memory_bytes")
    yield "Memory", size(memory_bytes) if memory_bytes is not None else ""
    cpu_usec = _number(entry, "cpu_usec")
    yield "CPU", f"{cpu_usec / 1e6:.3f}s" if cpu_usec is not None else ""
    yield "Started", _moment(entry, "started_at", now)
    yield "Last used", _moment(entry, "last_used", now)
    yield "Restarts", _text(entry, "restarts")
    yield "Last result", _result(entry)
    yield "Last line", _text(entry, "last_line")
    yield "Invocation", _text(entry, "invocation_id")
    yield "Weight", _text(entry, "weight")
    pinned = ", pinned" if entry.get("pinned") else ""
    previous = f" (before: {_text(entry, 'previous_release')})" if entry.get("previous_release") else ""
    yield "Release", _text(entry, "release") and _text(entry, "release") + pinned + previous


def _text(entry: Entry, key: str) -> str:
    value = entry.get(key)
    return "" if value is None else str(value)


def _number(entry: Entry, key: str) -> float | None:
    value = entry.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _moment(entry: Entry, key: str, now: float) -> str:
    then = _number(entry, key)
    return f"{moment(then)}; {ago(then, now)}" if then is not None else ""


def _result(entry: Entry) -> str:
    """How the app last ended; nothing if it never failed."""
    result = _text(entry, "result")
    if result in ("", "success"):
        return ""
    exit_status = _text(entry, "exit_status")
    return f"{result}, status {exit_status}" if exit_status else result
