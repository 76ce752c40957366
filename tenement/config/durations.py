"""Spans of time as systemd writes them: `90`, `"5min"`, `"1h 30s"`. See systemd.time(7)."""

import math
import re
from typing import Final

_UNITS_S: Final = {
    **dict.fromkeys(("ms", "msec"), 0.001),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604800.0),
}
_PART: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)")


def parse_duration(value: object) -> float:
    """Seconds meant by a number of seconds or by a string such as "1h 30s". Raises ValueError for others."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError("not a span of time")
    total_s, at = 0.0, 0
    text = value.rstrip()
    while at < len(text):
        part = _PART.match(text, at)
        if part is None or part[2] not in _UNITS_S:
            raise ValueError("not a span of time")
        total_s += float(part[1]) * _UNITS_S[part[2]]
        at = part.end()
    return total_s


def format_duration(seconds: float) -> str:
    """Seconds as a short span: 5400 gives "1h 30min", 0.25 gives "250ms", 0 gives "0"."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms" if seconds else "0"
    parts = []
    rest_s = seconds
    for name, size_s in (("d", 86400), ("h", 3600), ("min", 60)):
        count, rest_s = divmod(rest_s, size_s)
        if count:
            parts.append(f"{int(count)}{name}")
    if rest_s or not parts:
        parts.append(f"{rest_s:g}s")
    return " ".join(parts)
