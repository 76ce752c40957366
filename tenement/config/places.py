"""Finds the line on which a key of a TOML text is set, which tomllib does not tell.

The text is known to be valid TOML, so this only has to skip values, not to check them. Keys inside an inline table
are not looked for: they are on the line of the key that holds the table, or just below.
"""

import re
from typing import Final

type Path = tuple[str, ...]

_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_DOTTED: Final = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_HEADER: Final = re.compile(rf"\[\[?[ \t]*({_DOTTED})[ \t]*\]\]?")
_ASSIGNMENT: Final = re.compile(rf"({_DOTTED})[ \t]*=")
_KEY_RE: Final = re.compile(_KEY)
# One piece of a value: a string of any of the four kinds, a comment, a bracket, the end of a line, or other text.
_PIECE: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*|[\[{]|[\]}]|\n|[^\"'#\[\]{}\n]+",
    re.DOTALL,
)


def key_lines(text: str) -> dict[Path, int]:
    """The line, counted from 1, of each table header and each key in a valid TOML text."""
    lines: dict[Path, int] = {}
    table: Path = ()
    at, line = 0, 1
    while at < len(text):
        if text[at] in " \t\r\n":
            line += text[at] == "\n"
            at += 1
        elif header := _HEADER.match(text, at):
            table = _path(header[1])
            lines.setdefault(table, line)
            at = header.end()
        elif assignment := _ASSIGNMENT.match(text, at):
            path = table + _path(assignment[1])
            for length in range(len(table) + 1, len(path) + 1):
                lines.setdefault(path[:length], line)
            end = _value_end(text, assignment.end())
            line += text.count("\n", at, end)
            at = end
        else:
            at = _value_end(text, at)
    return lines


def _value_end(text: str, at: int) -> int:
    """Where the line ends on which the value that starts at `at` ends."""
    depth = 0
    while piece := _PIECE.match(text, at):
        if piece[0] in "[{":
            depth += 1
        elif piece[0] in "]}":
            depth -= 1
        elif piece[0] == "\n" and depth <= 0:
            return at
        at = piece.end()
    return len(text)


def _path(dotted: str) -> Path:
    """The parts of a dotted key, without quotes. Escapes in quoted keys stay as written."""
    return tuple(key[1:-1] if key[0] in "\"'" else key for key in _KEY_RE.findall(dotted))
