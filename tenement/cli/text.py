"""How `ten` writes: tables, times and sizes as plain text, for terminals and for pipes."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, TextIO

_COLOURS: Final = {"red": "31", "green": "32", "yellow": "33", "grey": "90"}
_GAP: Final = "  "


@dataclass(frozen=True, slots=True)
class Screen:
    """Where output goes. `width` is the columns of a terminal, None for a pipe or a file."""

    width: int | None = None
    coloured: bool = False

    @classmethod
    def of(cls, stream: TextIO) -> Self:
        """What is known of a stream. Colour needs a terminal that has it and no NO_COLOR."""
        if not stream.isatty():
            return cls()
        try:
            width = int(os.environ.get("COLUMNS") or os.get_terminal_size(stream.fileno()).columns)
        except (OSError, ValueError):
            width = 80
        able = os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")
        return cls(width=width if width > 0 else 80, coloured=able)

    def paint(self, text: str, colour: str | None) -> str:
        """`text` in a colour, if there are colours here."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.coloured and colour else text


def table(header: Sequence[str], rows: Sequence[Sequence[str]], screen: Screen) -> list[str]:
    """Lines of a table with columns as wide as they must be.

    Nothing is ever cut, except on a terminal the last column, so that a row stays one line.
    """
    every = [header, *rows]
    widths = [max(len(row[i]) for row in every) for i in range(len(header))]
    before = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
    room = screen.width - before if screen.width is not None else None
    lines = []
    for row in every:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append(_GAP.join([*cells, _cut(row[-1], room)]).rstrip())
    return lines


def _cut(text: str, room: int | None) -> str:
    if room is None or len(text) <= room or room < 8:
        return text
    return text[: room - 3] + "..."


def printable(text: str) -> str:
    """`text` on one line without anything that could steer a terminal: apps have written parts of it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c in "\n\t" else repr(c)[1:-1] for c in text)


def ago(then: float, now: float) -> str:
    """How long ago a moment was, in its largest unit: "5min ago"."""
    return f"{span(max(0.0, now - then))} ago"


def span(seconds: float) -> str:
    """A span of time in its largest unit, rounded down: "5min"."""
    for name, size_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size_s:
            return f"{int(seconds // size_s)}{name}"
    return f"{int(seconds)}s"


def moment(then: float) -> str:
    """A moment as systemctl writes it: "Wed 2026-11-25 03:20:00 UTC"."""
    return time.strftime("%a %Y-%m-%d %H:%M:%S %Z", time.localtime(then))


def size(bytes_: float) -> str:
    """A number of bytes in the unit it is short in: "12.3M"."""
    for unit in ("B", "K", "M", "G"):
        if bytes_ < 1024:
            return f"{bytes_:.0f}{unit}" if unit == "B" else f"{bytes_:.1f}{unit}"
        bytes_ /= 1024
    return f"{bytes_:.1f}T"


def out(line: str) -> None:
    """Writes a line to standard output."""
    sys.stdout.write(line + "\n")


def out_json(document: object) -> None:
    """Writes a document as JSON, in ASCII, to standard output."""
    import json

    out(json.dumps(document, indent=2))
