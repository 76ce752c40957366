"""`ten logs` itself, for whoever may read the journal: becomes journalctl, or searches."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO, Final

from tenement.logs import journalctl
from tenement.logs.journal_file import Entry
from tenement.logs.options import Arguments, UnknownOption, read
from tenement.logs.output import record, writer
from tenement.logs.selection import Selection
from tenement.logs.words import NothingToFind, Words

if TYPE_CHECKING:
    from tenement.logs.search import Range

_NOTHING_FOUND: Final = 1
_NOT_IN_A_SEARCH: Final = ("--follow", "--reverse", "--grep")
_PLAIN: Final = ("--output", "--json")


class Plan:
    """What some arguments ask for, checked before anything is read or asked.

    Raises UnknownOption for options that do not go together, and InvalidName.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.arguments: Arguments = read(arguments)
        self.selection = Selection.parse(self.arguments.selectors)
        values = self.arguments.values
        if all(name in values for name in _PLAIN):
            raise UnknownOption("--json and --output exclude each other")
        if "--search" in values:
            if wrong := next((name for name in _NOT_IN_A_SEARCH if name in values), None):
                raise UnknownOption(f"--search and {wrong} exclude each other: it shows the newest first")
            try:
                self.words: Words | None = Words.parse(values["--search"] or "")
                self.write = writer(self._form(), utc="--utc" in values)
            except (NothingToFind, ValueError) as error:
                raise UnknownOption(str(error)) from error
        else:
            self.words = None

    @property
    def paged(self) -> bool:
        """Whether a pager makes sense on a terminal."""
        return "--no-pager" not in self.arguments.values and "--follow" not in self.arguments.values

    def run(self) -> int:
        """Writes the lines to standard output and gives the exit status; may become journalctl instead.

        Raises NotFound if nothing was ever logged, and UnknownOption for a value that has no meaning.
        """
        if self.words is not None:
            return self._search(self.words, sys.stdout.buffer)
        command = journalctl.reading(self.arguments.options, self.selection)
        if "--json" in self.arguments.values:
            return _records(command, sys.stdout.buffer, follow="--follow" in self.arguments.values)
        os.execvp(command[0], command)

    def _form(self) -> str:
        values = self.arguments.values
        return "record" if "--json" in values else values.get("--output") or "short"

    def _search(self, words: Words, out: BinaryIO) -> int:
        # Imported only here: what it takes to use all cores takes longer to import than all the rest.
        from tenement.logs.search import search

        lines = self._limited(search(words, self.selection, self._range()))
        found = False
        for entry in lines:
            found = True
            out.write(self.write(entry))
        if not found and self._form().startswith("short"):
            out.write(b"-- No entries --\n")
        out.flush()
        return 0 if found else _NOTHING_FOUND

    def _limited(self, lines: Iterator[Entry]) -> Iterator[Entry]:
        text = self.arguments.values.get("--lines", "all")
        if text is None:
            return itertools.islice(lines, 10)
        if text.startswith("+"):
            raise UnknownOption("--search shows the newest lines: use --lines without +")
        return lines if text == "all" else itertools.islice(lines, int(text))

    def _range(self) -> "Range":
        from tenement.logs.search import Range

        values = self.arguments.values
        since, until = values.get("--since"), values.get("--until")
        priority = values.get("--priority")
        try:
            return Range(
                journalctl.moment_usec(since) if since else 0,
                journalctl.moment_usec(until) if until else 2**63,
                journalctl.boot(values["--boot"]) if "--boot" in values else None,
                journalctl.priority(priority) if priority else 7,
            )
        except ValueError as error:
            raise UnknownOption(str(error)) from error


def _records(command: list[str], out: BinaryIO, *, follow: bool) -> int:
    """Runs journalctl and writes each of its lines as a record."""
    command = [command[0], "--output=json", "--all", "--no-pager", *command[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for line in child.stdout:
            out.write(json.dumps(record(json.loads(line))).encode() + b"\n")
            if follow:
                out.flush()
    out.flush()
    return child.returncode
