"""Full-text search in the journal: newest first, and quick without an index.

A journal of a million lines has some 600 MB. To look at each entry takes microseconds, to look for bytes in a
file a fraction of a nanosecond per byte: so each file is first searched as what it is, bytes, for one word of
the query, on all cores. What is found are DATA objects that hold a message; their entries, which the tenants
asked for must have, are then read and looked at for the whole query.

What a tenant wrote is only ever a hint where to look (see journal_file.py): an entry is shown if journald has
filed it under a wanted unit, and if its own message matches.
"""

import heapq
import itertools
import logging
import os
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from tenement.logs.journal_file import DIRECTORIES, ZSTD_MAGIC, Entry, JournalDamaged, JournalFile
from tenement.logs.selection import Selection
from tenement.logs.words import Words

log = logging.getLogger(__name__)

_BLOCK: Final = 16 * 1024 * 1024
# An object is whole in one block if it is no larger than what two blocks share. journald compresses whatever
# is larger than 512 bytes, unless that saves nothing.
_SHARED: Final = 1024 * 1024
_PREFIX: Final = b"MESSAGE="
_MAGICS: Final = (ZSTD_MAGIC, b"\xfd7zXZ\x00")
_DATA_TYPE: Final = 1
# So few entries are read one by one sooner than the file they are in is searched.
_FEW: Final = 2000
# Who may say that a line is about a unit besides the unit itself: PID 1 and root, as for journalctl's --unit.
_ABOUT: Final = ((b"UNIT", b"_PID", b"1"), (b"OBJECT_SYSTEMD_UNIT", b"_UID", b"0"))


@dataclass(frozen=True, slots=True)
class Range:
    """Which of the matching lines are wanted. Times are microseconds since 1970."""

    since_usec: int = 0
    until_usec: int = 2**63
    boot_id: str | None = None
    priority_max: int = 7

    def has(self, entry: Entry) -> bool:
        """Whether an entry is in the range."""
        if not self.since_usec <= entry.realtime_usec <= self.until_usec:
            return False
        if self.boot_id is not None and entry.boot_id != self.boot_id:
            return False
        priority = entry.text("PRIORITY", "6")
        return self.priority_max >= 7 or (priority.isdigit() and int(priority) <= self.priority_max)


def search(
    words: Words, selection: Selection, span: Range = Range(), directories: Iterable[Path] = DIRECTORIES
) -> Iterator[Entry]:
    """The lines of tenants that match, newest first, as they are found. Raises OSError."""
    files = sorted(_files(directories, span), key=lambda each: -each[0])
    with _Scans([path for _, path in files], words, selection) as scans:
        # The heap holds the newest line of each file that was scanned; a file is scanned before the first
        # line is given out that is older than its newest.
        heap: list[tuple[int, int, Entry, Iterator[Entry]]] = []
        for number, (newest, _) in enumerate(files):
            while heap and -heap[0][0] >= newest:
                yield from _pop(heap)
            _push(heap, number, _lines(*scans.next(), words, span))
        while heap:
            yield from _pop(heap)


type _Heap = list[tuple[int, int, Entry, Iterator[Entry]]]


def _push(heap: _Heap, number: int, lines: Iterator[Entry]) -> None:
    if entry := next(lines, None):
        heapq.heappush(heap, (-entry.realtime_usec, number, entry, lines))


def _pop(heap: _Heap) -> Iterator[Entry]:
    _, number, entry, lines = heapq.heappop(heap)
    yield entry
    _push(heap, number, lines)


def _files(directories: Iterable[Path], span: Range) -> Iterator[tuple[int, Path]]:
    """The journal's files with their newest time. Users' own files are none of tenants'."""
    for directory in directories:
        for path in directory.glob("*/system*.journal*"):
            try:
                with JournalFile(path) as file:
                    if file.first_usec <= span.until_usec and (
                        file.last_usec >= span.since_usec or file.online
                    ):
                        yield (2**63 if file.online else file.last_usec), path
            except FileNotFoundError:
                # Deleted to make room.
                continue
            except JournalDamaged as error:
                log.warning("%s; it is left out", error)


class _Scans:
    """Scans of files, in order, a few ahead of what is asked for and each in a process of its own."""

    def __init__(self, paths: list[Path], words: Words, selection: Selection) -> None:
        self._arguments = (words, selection)
        self._paths = iter(paths)
        self._ahead: list[tuple[Path, Future[bytes]]] = []
        workers = min(len(paths), os.cpu_count() or 1)
        self._pool = ProcessPoolExecutor(workers, get_context("fork")) if workers > 1 else None
        self._advance(workers)

    def __enter__(self) -> "_Scans":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def next(self) -> tuple[Path, "array[int]"]:
        """The next file and the offsets of its entries that may match, newest first."""
        path, future = self._ahead.pop(0)
        self._advance(1)
        return path, array("Q", future.result())

    def _advance(self, count: int) -> None:
        for path in itertools.islice(self._paths, count):
            if self._pool is not None:
                future = self._pool.submit(_scan, path, *self._arguments)
            else:
                future = Future()
                future.set_result(_scan(path, *self._arguments))
            self._ahead.append((path, future))


def _lines(path: Path, offsets: "array[int]", words: Words, span: Range) -> Iterator[Entry]:
    """The entries at some offsets of a file that do match."""
    if not offsets:
        return
    try:
        with JournalFile(path) as file:
            for at in offsets:
                entry = file.entry(at)
                if entry.realtime_usec < span.since_usec:
                    break
                if span.has(entry) and any(map(words.match, entry.fields.get("MESSAGE", ()))):
                    yield entry
    except FileNotFoundError:
        # Rotated away in between: under its new name it was not listed. Rare, and then old lines lack.
        log.warning("%s was rotated away during the search; search again", path)
    except JournalDamaged as error:
        log.warning("%s; the rest of it is left out", error)


def _scan(path: Path, words: Words, selection: Selection) -> bytes:
    """Offsets of the entries of wanted units that may match, newest first, as the bytes of an array."""
    try:
        with JournalFile(path) as file:
            wanted = _entries_of_units(file, selection)
            if len(wanted) > _FEW:
                found: set[int] = set()
                for hint in _hints(file, words):
                    try:
                        found.update(file.entries_of(hint))
                    except JournalDamaged:
                        # Only the likeness of an object.
                        continue
                wanted &= found
            return array("Q", sorted(wanted, reverse=True)).tobytes()
    except FileNotFoundError:
        return b""
    except JournalDamaged as error:
        log.warning("%s; it is left out", error)
        return b""


def _entries_of_units(file: JournalFile, selection: Selection) -> set[int]:
    """The entries that are from a wanted unit, or about one."""
    found: set[int] = set()
    for at, value in file.values(b"_SYSTEMD_UNIT"):
        if selection.has(value.decode("ascii", "replace")):
            found.update(file.entries_of(at))
    for field, by_field, by_value in _ABOUT:
        about: set[int] = set()
        for at, value in file.values(field):
            if selection.has(value.decode("ascii", "replace")):
                about.update(file.entries_of(at))
        if about:
            by = next((at for at, value in file.values(by_field) if value == by_value), None)
            if by is not None:
                found |= about.intersection(file.entries_of(by))
    return found


def _hints(file: JournalFile, words: Words) -> set[int]:
    """Offsets of what look like DATA objects with a message that matches."""
    found: set[int] = set()
    for base in range(0, file.size, _BLOCK):
        block = file.read(base, _BLOCK + _SHARED)
        if not block:
            break
        found.update(base + at for at in _plain(file, base, block, words))
        found.update(base + at for at in _compressed(file, block, words))
    return found


def _plain(file: JournalFile, base: int, block: bytes, words: Words) -> Iterator[int]:
    lower = block.lower()
    needle = words.needle
    at = 0
    while (hit := lower.find(needle, at) if needle else block.find(_PREFIX, at)) >= 0:
        # The object that the hit is in begins with the nearest prefix before it that begins an object;
        # nearer ones are text. The hit may be in the prefix itself.
        value = block.rfind(_PREFIX, 0, hit + len(_PREFIX))
        while value >= 0 and not _is_object(file, base, block, value):
            value = block.rfind(_PREFIX, max(0, value - _SHARED), value)
        if value >= 0:
            text = value + len(_PREFIX)
            if needle and hit < text:
                at = text
                continue
            start = value - file.payload_at
            end = start + int.from_bytes(block[start + 8 : start + 16], "little")
            if hit < end and words.match_lower(lower[text:end]):
                yield start
        # No other message begins before the next prefix: nothing is skipped that could hide another's.
        at = block.find(_PREFIX, hit + 1)
        if at < 0:
            return


def _is_object(file: JournalFile, base: int, block: bytes, value: int) -> bool:
    """Whether an uncompressed DATA object, whole in the block, has its value here."""
    start = value - file.payload_at
    if start < 0 or start % 8 or block[start] != _DATA_TYPE or block[start + 1]:
        return False
    size = int.from_bytes(block[start + 8 : start + 16], "little")
    if not file.payload_at + len(_PREFIX) <= size <= len(block) - start:
        return False
    # A message may hold what looks like an object, and would hide behind it; but no entry names that one.
    return file.lists(int.from_bytes(block[start + 40 : start + 48], "little"), base + start)


def _compressed(file: JournalFile, block: bytes, words: Words) -> Iterator[int]:
    for magic in _MAGICS:
        at = block.find(magic)
        while at >= 0:
            value = file.compressed(block, at)
            if value is not None and value.startswith(_PREFIX) and words.match(value[len(_PREFIX) :]):
                yield at - file.payload_at
            at = block.find(magic, at + 1)
