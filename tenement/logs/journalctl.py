"""journalctl as `ten logs` uses it: which lines are a tenant's, and the two values it reads for a search.

Only fields that journald itself vouches for choose lines. `TENANT=` is there for people to type, but any
process may write a field of that name.
"""

import re
import subprocess
from collections.abc import Sequence
from typing import Final

from tenement.errors import InvalidName, NotFound
from tenement.logs.selection import Selection
from tenement.names import check_service, service_slice

_SLICE: Final = re.compile(r"tenement-(.+)\.slice")
_PRIORITIES: Final = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
_TIMEOUT_S: Final = 30.0


def matches(selection: Selection) -> list[str]:
    """journalctl's arguments that choose the lines of a selection. Raises NotFound if there are none yet."""
    services = sorted(selection.services)
    if selection.everything:
        services = known_services()
        if not services:
            raise NotFound("no tenant has logged anything yet")
    units = sorted(name.unit for name in selection.tenants)
    if not services:
        return [f"--unit={unit}" for unit in units]
    # A pattern of units would do too, but is as slow as there are units. These say the same: what the
    # processes in the slice have printed, those too that were gone before journald looked for their slice,
    # and what PID 1 has to say about their units. A line of text brings no fields of its own.
    terms = [
        term
        for name in services
        for term in (
            f"_SYSTEMD_SLICE={service_slice(name)}",
            f"_TRANSPORT=stdout TENANT_SERVICE={name}",
            f"_PID=1 TENANT_SERVICE={name}",
        )
    ]
    terms += [term for unit in units for term in (f"_SYSTEMD_UNIT={unit}", f"_PID=1 UNIT={unit}")]
    return " + ".join(terms).split(" ")


def known_services() -> list[str]:
    """The services whose tenants have printed anything."""
    services = []
    for line in _output("--field=_SYSTEMD_SLICE").splitlines():
        if found := _SLICE.fullmatch(line):
            try:
                services.append(check_service(found[1].replace(r"\x2d", "-")))
            except InvalidName:
                # Somebody else's slice.
                continue
    return sorted(services)


def boot(text: str | None) -> str | None:
    """The id of a boot as --boot names it; None for all boots. Raises ValueError."""
    if text == "all":
        return None
    if text and re.fullmatch(r"[0-9a-f]{32}", text):
        return text
    lines = _output("--list-boots", "--output=json", "--quiet")
    import json

    boots = {int(each["index"]): str(each["boot_id"]) for each in json.loads(lines or "[]")}
    index = int(text or "0")
    if index > 0:
        # Counted from the oldest.
        index = min(boots, default=0) + index - 1
    if index not in boots:
        raise ValueError(f"the journal has no boot {text}")
    return boots[index]


def moment_usec(text: str) -> int:
    """Microseconds since 1970 of a time as --since takes it, see systemd.time(7). Raises ValueError."""
    done = subprocess.run(
        ["systemd-analyze", "timestamp", "--", text],
        capture_output=True,
        check=False,
        text=True,
        timeout=_TIMEOUT_S,
    )
    found = re.search(r"@(\d+)(?:\.(\d+))?", done.stdout)
    if done.returncode or not found:
        raise ValueError(f"{text!r} is no time. See systemd.time(7)")
    return int(found[1]) * 1_000_000 + int((found[2] or "0").ljust(6, "0")[:6])


def priority(text: str) -> int:
    """The number of a priority, 0 (emerg) to 7 (debug). Raises ValueError."""
    if text in _PRIORITIES:
        return _PRIORITIES.index(text)
    if text.isdigit() and int(text) < len(_PRIORITIES):
        return int(text)
    raise ValueError(f"{text!r} is no priority: use {', '.join(_PRIORITIES)} or 0 to 7")


def _output(*arguments: str) -> str:
    done = subprocess.run(
        ["journalctl", *arguments],
        capture_output=True,
        check=False,
        text=True,
        errors="replace",
        timeout=_TIMEOUT_S,
    )
    return done.stdout


def reading(options: Sequence[str], selection: Selection) -> list[str]:
    """The whole command line."""
    return ["journalctl", *options, *matches(selection)]
