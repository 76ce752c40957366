"""Counts of requests, in a file for each worker of the proxy: written there, added up by the HTTP API.

The file is memory that the worker maps, so counting a request costs a few additions and no system call, and
the counts survive the worker: the next one with the same number goes on from them. It holds

    8 bytes     magic and version
    8 bytes     sequence: odd while records are being moved, so that a reader knows to look again
    records     of RECORD_BYTES: a name (NAME_BYTES, zero-padded), then CELLS unsigned numbers of 8 bytes

in the machine's own byte order. A record belongs to a target: "notes:alice", "notes" (what removed tenants
of the service have left behind), "/" (the HTTP API itself), or "-" (requests for unknown hosts: all of them
in one record, because visitors choose hosts). A record whose name is empty is free.
"""

import contextlib
import mmap
import os
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path("/run/tenement-metrics")
"""Where the package has workers put their files; the HTTP API may read it."""

BOUNDS_S: Final[tuple[float, ...]] = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper bounds of the buckets of durations, in seconds; one more bucket has no bound."""

UNKNOWN: Final = "-"
"""The record of requests that lead nowhere."""

ROOT: Final = "/"
"""The record of requests to the base domain itself."""

# Cells: requests by class of status (1xx to 5xx), buckets of durations, their sum in microseconds, bytes
# sent.
CLASSES: Final = 5
BUCKETS: Final = len(BOUNDS_S) + 1
_FIRST_BUCKET: Final = CLASSES
_SUM_USEC: Final = CLASSES + BUCKETS
_SENT: Final = _SUM_USEC + 1
CELLS: Final = _SENT + 1
NAME_BYTES: Final = 128
RECORD_BYTES: Final = NAME_BYTES + 8 * CELLS
_HEADER_BYTES: Final = 16
_MAGIC: Final = b"tenreq01"
_GROWTH: Final = 64
_RECORDS_MAX: Final = 200_000
_NAME_CELLS: Final = NAME_BYTES // 8
_RECORD_CELLS: Final = RECORD_BYTES // 8
# By the first digit of a status; there is no status 0, but one that nobody knows counts as an interim one.
_CLASS_OF: Final[tuple[int, ...]] = (0, 0, 1, 2, 3, 4, 4, 4, 4, 4)


class _Record:
    """Where a record's cells begin in the file, and what is in them: nobody else writes there, so it need not
    be read again.
    """

    __slots__ = ("base", "values")

    def __init__(self, base: int, values: list[int]) -> None:
        self.base = base
        self.values = values


class Counters:
    """The counters of one worker. `exists` tells whether there is a tenant of that name.

    Without a path, or where the file cannot be had, it counts in memory of its own.
    """

    def __init__(self, path: Path | None, exists: Callable[[str], bool]) -> None:
        self._exists = exists
        self._tenants: dict[str, _Record] = {}
        self._others: dict[str, _Record] = {}
        self._free: list[int] = []
        self._fd = -1
        self._map = mmap.mmap(-1, _HEADER_BYTES + _GROWTH * RECORD_BYTES)
        if path is not None:
            with contextlib.suppress(OSError):
                self._open(path)
        self._cells = memoryview(self._map).cast("Q")
        self._map[:8] = _MAGIC
        # A worker that was killed in the middle of a move.
        self._cells[1] += self._cells[1] & 1
        self._load()

    def count(self, name: str, status: int, duration_s: float, sent_bytes: int) -> None:
        """Count a request at its end. `name` is "" for one that led nowhere, a tenant's, or any other.

        Upgraded connections (status 101) have no duration that would say anything about the app.
        """
        record = self._tenants.get(name)
        if record is None:
            record = self._record_of(name)
        # 499, the client went away, is a 4xx like others.
        self._raise(record, _CLASS_OF[status // 100], 1)
        self._raise(record, _SENT, sent_bytes)
        if status != 101:
            self._raise(record, _FIRST_BUCKET + bisect_left(BOUNDS_S, duration_s), 1)
            self._raise(record, _SUM_USEC, int(duration_s * 1e6))

    def prune(self, names: Iterable[str]) -> None:
        """Give the records of these tenants, which are gone, back; their counts stay in their service's."""
        for name in names:
            if name in self._tenants:
                self._retire(name)

    def prune_all(self) -> None:
        """Give back the record of every tenant that does not exist any more."""
        self.prune([name for name in self._tenants if not self._exists(name)])

    def close(self) -> None:
        """Leave the file as it is."""
        self._cells.release()
        self._map.close()
        if self._fd >= 0:
            os.close(self._fd)

    def _raise(self, record: _Record, cell: int, number: int) -> None:
        """Add to a cell."""
        value = record.values[cell] + number
        record.values[cell] = value
        self._cells[record.base + cell] = value

    def _open(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        try:
            # The group, by which the HTTP API reads it, comes from the directory.
            os.fchmod(fd, 0o640)
            size = os.fstat(fd).st_size
            whole = size >= _HEADER_BYTES and (size - _HEADER_BYTES) % RECORD_BYTES == 0
            if not whole or os.pread(fd, 8, 0) != _MAGIC:
                os.ftruncate(fd, 0)
                size = _HEADER_BYTES + _GROWTH * RECORD_BYTES
                os.ftruncate(fd, size)
            mapped = mmap.mmap(fd, size)
        except OSError:
            os.close(fd)
            raise
        self._map.close()
        self._map, self._fd = mapped, fd

    def _load(self) -> None:
        for offset in range(_HEADER_BYTES, len(self._map), RECORD_BYTES):
            name = _name_at(self._map, offset)
            base = offset // 8 + _NAME_CELLS
            if name:
                record = _Record(base, self._cells[base : base + CELLS].tolist())
                (self._tenants if ":" in name else self._others)[name] = record
            else:
                self._free.append(base)
        self._free.reverse()

    def _record_of(self, name: str) -> _Record:
        """The record of anything but a tenant that has one already."""
        if ":" not in name:
            return self._other(ROOT if name else UNKNOWN)
        if not self._exists(name):
            return self._other(name.partition(":")[0])
        return self._add(name)

    def _other(self, name: str) -> _Record:
        record = self._others.get(name)
        return self._add(name) if record is None else record

    def _add(self, name: str) -> _Record:
        if not self._free and not self._grow():
            return next(iter(self._others.values()), next(iter(self._tenants.values())))
        base = self._free.pop()
        self._cells[base : base + CELLS] = memoryview(bytes(8 * CELLS)).cast("Q")
        start = (base - _NAME_CELLS) * 8
        self._map[start : start + NAME_BYTES] = name.encode()[:NAME_BYTES].ljust(NAME_BYTES, b"\0")
        record = _Record(base, [0] * CELLS)
        (self._tenants if ":" in name else self._others)[name] = record
        return record

    def _grow(self) -> bool:
        """Make room for more records; whether there is."""
        size = len(self._map)
        records = (size - _HEADER_BYTES) // RECORD_BYTES
        if records >= _RECORDS_MAX:
            return False
        larger = size + max(_GROWTH, records // 2) * RECORD_BYTES
        try:
            if self._fd >= 0:
                os.ftruncate(self._fd, larger)
                mapped = mmap.mmap(self._fd, larger)
            else:
                mapped = mmap.mmap(-1, larger)
                mapped[:size] = self._map[:]
        except OSError:
            return False
        self._cells.release()
        self._map.close()
        self._map = mapped
        self._cells = memoryview(mapped).cast("Q")
        self._free = [
            offset // 8 + _NAME_CELLS for offset in range(larger - RECORD_BYTES, size - 1, -RECORD_BYTES)
        ]
        return True

    def _retire(self, name: str) -> None:
        """Move a tenant's counts to its service's record, so that their sum stays what it was."""
        to = self._other(name.partition(":")[0])
        record = self._tenants.pop(name)
        cells = self._cells
        cells[1] += 1
        for cell in range(CELLS):
            self._raise(to, cell, record.values[cell])
            cells[record.base + cell] = 0
        start = (record.base - _NAME_CELLS) * 8
        self._map[start : start + NAME_BYTES] = bytes(NAME_BYTES)
        cells[1] += 1
        self._free.append(record.base)


class Counts:
    """The counts of one target, added up over workers."""

    __slots__ = ("cells",)

    def __init__(self) -> None:
        self.cells = [0] * CELLS

    def add(self, cells: Iterable[int]) -> None:
        """Add those of one more worker, or of one more target."""
        self.cells = [mine + more for mine, more in zip(self.cells, cells, strict=True)]

    @property
    def by_class(self) -> list[int]:
        """Requests answered 1xx, 2xx, 3xx, 4xx, 5xx."""
        return self.cells[:CLASSES]

    @property
    def requests(self) -> int:
        """All requests."""
        return sum(self.cells[:CLASSES])

    @property
    def buckets(self) -> list[int]:
        """Requests in each bucket of durations, not cumulative."""
        return self.cells[_FIRST_BUCKET:_SUM_USEC]

    @property
    def sum_s(self) -> float:
        """Durations of all requests, in seconds."""
        return self.cells[_SUM_USEC] / 1e6

    @property
    def sent_bytes(self) -> int:
        """Bytes of all answers, heads included."""
        return self.cells[_SENT]


def read(directory: Path = DIRECTORY) -> dict[str, Counts]:
    """The counts of every target, added up over all workers. No file is no count."""
    sums: dict[str, Counts] = {}
    for path in sorted(directory.glob("worker-*")):
        for name, cells in _records(_stable(path)):
            sums.setdefault(name, Counts()).add(cells)
    return sums


def by_service(counts: dict[str, Counts]) -> dict[str, Counts]:
    """The same added up by service; what is no service's keeps its name."""
    sums: dict[str, Counts] = {}
    for name, each in counts.items():
        sums.setdefault(name.partition(":")[0], Counts()).add(each.cells)
    return sums


def _stable(path: Path) -> bytes:
    """A file's content at a moment when no record was being moved."""
    content = b""
    for _ in range(100):
        try:
            before = _sequence(path)
            content = path.read_bytes()
            if before % 2 == 0 and _sequence(path) == before:
                break
        except (OSError, struct.error):
            return b""
    return content if content[:8] == _MAGIC else b""


def _sequence(path: Path) -> int:
    with path.open("rb") as file:
        file.seek(8)
        (sequence,) = struct.unpack("=Q", file.read(8))
        return int(sequence)


def _records(content: bytes) -> Iterator[tuple[str, tuple[int, ...]]]:
    for offset in range(_HEADER_BYTES, len(content) - RECORD_BYTES + 1, RECORD_BYTES):
        name = _name_at(content, offset)
        if name:
            yield name, struct.unpack_from(f"={CELLS}Q", content, offset + NAME_BYTES)


def _name_at(content: bytes | mmap.mmap, offset: int) -> str:
    return content[offset : offset + NAME_BYTES].rstrip(b"\0").decode("ascii", "replace")
