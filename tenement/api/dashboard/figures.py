"""Figures of the overview, worked out from the numbers. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from tenement.api.dashboard.view import GROUPS

_LEAST_WIDTH = 0.6
_WIDTH = 100.0


def bar(counts: Mapping[str, int]) -> list[tuple[str, float, float]]:
    """A bar of 100 units divided by the groups: (group, where it begins, its width) for each that has any.

    A small group is drawn wide enough to be seen; the others give way.
    """
    total = sum(counts.values())
    shown = [(group, counts.get(group, 0)) for group in GROUPS if counts.get(group, 0)]
    widths = [max(_LEAST_WIDTH, _WIDTH * count / total) for _, count in shown]
    scale = _WIDTH / sum(widths) if widths else 1.0
    found, x = [], 0.0
    for (group, _), width in zip(shown, widths, strict=True):
        found.append((group, round(x, 3), round(width * scale, 3)))
        x += width * scale
    return found


def memory_figures(
    services: Sequence[Mapping[str, Any]], numbers: Mapping[str, Mapping[str, Any]]
) -> dict[str, float | None]:
    """Memory in use, and an estimate of what it would be if no tenant ever slept; None if it is not counted.

    The estimate takes each tenant of a service for as large as those that have a process are on average.
    """
    used, always, counted = 0.0, 0.0, False
    for service in services:
        memory_bytes = numbers.get(service["service"], {}).get("memory_bytes")
        present = sum(
            count for state, count in service["states"].items() if state in (*GROUPS["awake"][1], "frozen")
        )
        if memory_bytes is None:
            continue
        counted = True
        used += memory_bytes
        always += memory_bytes / present * service["tenants"] if present else 0.0
    return {"used": used if counted else None, "always": max(used, always) if counted else None}
