"""Where each key of the configuration is set: file and line, which tomllib does not tell.

The texts are known to be valid TOML, so the scan only has to skip values, not to check them. Keys inside an
inline table are not looked for: they count as being on the line of the key that holds the table.
"""

import re
from typing import Final

from tenement.errors import Problem

type Path = tuple[str, ...]
"""The keys from the top of the configuration down to a setting: ("service", "notes", "command")."""

_KEY: Final = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_DOTTED: Final = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_HEADER: Final = re.compile(rf"\[\[?[ \t]*({_DOTTED})[ \t]*\]\]?")
_ASSIGNMENT: Final = re.compile(rf"({_DOTTED})[ \t]*=")
_KEY_RE: Final = re.compile(_KEY)
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
# One piece of a value: a string of any of the four kinds, a comment, a bracket, a line's end, other text.
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
            _note(lines, (), table, line)
            at = header.end()
        elif assignment := _ASSIGNMENT.match(text, at):
            path = table + _path(assignment[1])
            _note(lines, table, path, line)
            end = _value_end(text, assignment.end())
            line += text.count("\n", at, end)
            at = end
        else:
            at = _value_end(text, at)
    return lines


def _note(lines: dict[Path, int], table: Path, path: Path, line: int) -> None:
    """Notes the line of a key and of the tables that it makes below `table`, unless they were met before."""
    for length in range(len(table) + 1, len(path) + 1):
        lines.setdefault(path[:length], line)


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


class Places:
    """The file and line of every key that some texts set."""

    def __init__(self) -> None:
        """No key is known yet."""
        self._places: dict[Path, tuple[str, int | None]] = {}

    def add(self, path: Path, file: str, lines: dict[Path, int]) -> None:
        """Notes that `file`, whose keys are on `lines`, sets the key `path`."""
        self._places[path] = (file, self.line(path, lines))

    def of(self, path: Path) -> tuple[str | None, int | None]:
        """File and line of a key, or of the nearest table around it."""
        return next((self._places[up] for up in _upwards(path) if up in self._places), (None, None))

    @staticmethod
    def line(path: Path, lines: dict[Path, int]) -> int | None:
        """The line of a key among `lines`, or of the nearest key around it."""
        return next((lines[up] for up in _upwards(path) if up in lines), None)

    def problem(self, path: Path, message: str, hint: str | None = None) -> Problem:
        """A problem with a key, at its place."""
        file, line = self.of(path)
        return Problem(message, file=file, line=line, key=dotted(path), hint=hint)


def dotted(path: Path) -> str:
    """A key path as TOML writes it: `routing.hosts."www.example.com"`."""
    return ".".join(key if _BARE_KEY.fullmatch(key) else f'"{key}"' for key in path)


def _upwards(path: Path) -> list[Path]:
    return [path[:end] for end in range(len(path), 0, -1)]
