"""One file of the journal, read without libsystemd, which is too slow for a search of all lines.

Theory of operation
-------------------
The format is documented and stable (systemd.io/JOURNAL_FILE_FORMAT). A file is a sequence of objects, each
aligned to 8 bytes. A DATA object holds one `FIELD=value`, once for all entries that have it; an ENTRY object
lists the offsets of its DATA objects; ENTRY ARRAY objects, chained, list the entries of a DATA object; a
FIELD object begins the chain of all DATA objects of that field.

Tenants are hostile and write most of the bytes in these files. What is reached from the header over the
field table is what journald wrote and is believed: the values of `_SYSTEMD_UNIT`, and their entries. An
object that was found by looking for bytes is not, because a message may hold the bytes of an object: such a
find is only a hint, and the entry it leads to must be one that is known from the header.

Files are read, never mapped: journald truncates files that it rotates away, which would be SIGBUS. Offsets
are checked against the size at each read, and chains are bounded, so a damaged file ends in JournalDamaged.
"""

import ctypes
import ctypes.util
import functools
import lzma
import os
import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

DIRECTORIES: Final = (Path("/var/log/journal"), Path("/run/log/journal"))
"""Where journald keeps its files, in a directory for each machine id."""

_SIGNATURE: Final = b"LPKSHHRH"
_XZ, _LZ4, _KEYED, _ZSTD, _COMPACT = 1, 2, 4, 8, 16
_DATA, _FIELD, _ENTRY, _ENTRY_ARRAY = 1, 2, 3, 6
_OBJECT_XZ, _OBJECT_LZ4, _OBJECT_ZSTD = 1, 2, 4

# type, flags, size; then what is particular to the type.
_OBJECT: Final = struct.Struct("<BB6xQ")
_DATA_LINKS: Final = struct.Struct("<16xQQQQQQ")
_ENTRY_HEAD: Final = struct.Struct("<16xQQQ16sQ")
_FIELD_LINKS: Final = struct.Struct("<16xQQQ")
_HEADER: Final = struct.Struct("<8sII8x16s16s16s16sQQQQQQ")
_HEAD_SIZE: Final = 64
_TIMES: Final = struct.Struct("<QQ")
_TIMES_AT: Final = 184
_ONLINE: Final = 1

_FIELD_NAME_MAX: Final = 64 * 1024
_VALUE_MAX: Final = 64 * 1024 * 1024
"""The largest object that is read, in bytes; journald splits lines long before."""

ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
"""How every value begins that journald compressed."""


class JournalDamaged(Exception):
    """A file is no journal, is damaged, or of a kind that is not known here."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. Times are microseconds: since 1970, and since the boot `boot_id`."""

    realtime_usec: int
    monotonic_usec: int
    seqnum: int
    seqnum_id: str
    boot_id: str
    xor_hash: int
    fields: dict[str, list[bytes]]

    @property
    def cursor(self) -> str:
        """Its position in the journal, as journalctl's --cursor= takes it."""
        return (
            f"s={self.seqnum_id};i={self.seqnum:x};b={self.boot_id};m={self.monotonic_usec:x};"
            f"t={self.realtime_usec:x};x={self.xor_hash:x}"
        )

    def text(self, field: str, default: str = "") -> str:
        """The first value of a field, with what is no UTF-8 replaced."""
        values = self.fields.get(field)
        return values[0].decode("utf-8", "replace") if values else default


class JournalFile:
    """A file of the journal, open. Raises JournalDamaged or OSError, from every method."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._read_header()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        """Is open already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the file."""
        os.close(self._fd)

    def _read_header(self) -> None:
        self.size = os.fstat(self._fd).st_size
        head = os.pread(self._fd, _TIMES_AT + _TIMES.size, 0)
        if len(head) < _TIMES_AT + _TIMES.size or not head.startswith(_SIGNATURE):
            raise JournalDamaged(f"{self.path}: is no journal")
        _, _, incompatible, _, _, _, seqnum_id, *rest = _HEADER.unpack_from(head)
        self.header_size, _, _, _, self._field_table, self._field_table_size = rest
        if incompatible & ~(_XZ | _LZ4 | _KEYED | _ZSTD | _COMPACT):
            raise JournalDamaged(f"{self.path}: was written by a newer systemd (flags {incompatible:#x})")
        self.compact = bool(incompatible & _COMPACT)
        self.seqnum_id = seqnum_id.hex()
        self.online = head[16] == _ONLINE
        self.first_usec, self.last_usec = _TIMES.unpack_from(head, _TIMES_AT)

    @property
    def payload_at(self) -> int:
        """Where, from the start of a DATA object, its value begins."""
        return 72 if self.compact else 64

    def read(self, at: int, size: int) -> bytes:
        """`size` bytes at an offset, or fewer at the end of the file."""
        return os.pread(self._fd, size, at)

    def values(self, field: bytes) -> Iterator[tuple[int, bytes]]:
        """Offset and value of every DATA object of a field."""
        at, seen = self._field_head(field), 0
        while at:
            seen += 1
            if seen * 64 > self.size:
                raise JournalDamaged(f"{self.path}: a chain has no end")
            links, payload = self._data(at)
            name, equals, value = payload.partition(b"=")
            if name != field or not equals:
                raise JournalDamaged(f"{self.path}: a chain leads to another field")
            yield at, value
            at = links[2]

    def entries_of(self, data_at: int) -> "array[int]":
        """Offsets of the entries that have the DATA object at `data_at`, oldest first."""
        links = _DATA_LINKS.unpack(self._exactly(data_at, _HEAD_SIZE))
        _, _, _, first, more, count = links
        if count * 4 > self.size:
            raise JournalDamaged(f"{self.path}: a count is too large")
        if sys.byteorder == "big":
            raise JournalDamaged(f"{self.path}: is little-endian, this machine is not")
        kind = "I" if self.compact else "Q"
        found = array(kind, [first] if first and count else [])
        while more and len(found) < count:
            size = self._object(more, _ENTRY_ARRAY)
            body = self._exactly(more + 16, size - 16)
            (more,) = struct.unpack_from("<Q", body)
            items = array(kind, body[8:])
            found.extend(items[: count - len(found)])
        # The part of the last array that is not used yet is zero.
        while found and not found[-1]:
            found.pop()
        return found

    def lists(self, entry_at: int, data_at: int) -> bool:
        """Whether an entry at `entry_at` has the DATA object at `data_at`. Both may be any number."""
        if not 0 < entry_at < self.size:
            return False
        # Most entries are small: one read is enough.
        body = self.read(entry_at, 1024)
        if len(body) < _HEAD_SIZE:
            return False
        kind, _, size = _OBJECT.unpack_from(body)
        if kind != _ENTRY or size > _VALUE_MAX:
            return False
        if size > len(body):
            body = self.read(entry_at, size)
        items = body[_HEAD_SIZE:size]
        step = 4 if self.compact else 16
        whole = memoryview(items)[: len(items) // step * step]
        return data_at in (whole.cast("I") if self.compact else whole.cast("Q")[::2])

    def realtime_of(self, entry_at: int) -> int:
        """When the entry at that offset was received, in microseconds since 1970."""
        return int(_ENTRY_HEAD.unpack(self._exactly(entry_at, _HEAD_SIZE))[1])

    def entry(self, entry_at: int) -> Entry:
        """The entry at an offset."""
        size = self._object(entry_at, _ENTRY)
        body = self._exactly(entry_at, size)
        seqnum, realtime, monotonic, boot_id, xor_hash = _ENTRY_HEAD.unpack_from(body)
        step = 4 if self.compact else 16
        fields: dict[str, list[bytes]] = {}
        for item in range(_HEAD_SIZE, size - step + 1, step):
            at = int.from_bytes(body[item : item + min(step, 8)], "little")
            if not at:
                continue
            name, _, value = self._data(at)[1].partition(b"=")
            fields.setdefault(name.decode("ascii", "replace"), []).append(value)
        return Entry(realtime, monotonic, seqnum, self.seqnum_id, boot_id.hex(), xor_hash, fields)

    def compressed(self, block: bytes, payload: int) -> bytes | None:
        """The value of the DATA object whose compressed payload begins at `payload` of `block`, if it is one.

        What is there may be anything: None if it is no whole object.
        """
        start = payload - self.payload_at
        if start < 0:
            return None
        kind, flags, size = _OBJECT.unpack_from(block, start)
        if kind != _DATA or not flags or not self.payload_at < size <= len(block) - start:
            return None
        try:
            return _decompress(flags, block[payload : start + size])
        except (JournalDamaged, lzma.LZMAError):
            return None

    # Private

    def _field_head(self, field: bytes) -> int:
        """Where the chain of a field's DATA objects begins; 0 if the file has none."""
        table = self._exactly(self._field_table, min(self._field_table_size, _VALUE_MAX))
        for head, _ in struct.iter_unpack("<QQ", table[: len(table) // 16 * 16]):
            at, seen = head, 0
            while at:
                seen += 1
                size = self._object(at, _FIELD)
                if seen > 10_000 or size > _FIELD_NAME_MAX:
                    raise JournalDamaged(f"{self.path}: the table of fields is damaged")
                body = self._exactly(at, size)
                _, following, first = _FIELD_LINKS.unpack_from(body)
                if body[40:] == field:
                    return int(first)
                at = following
        return 0

    def _data(self, at: int) -> tuple[tuple[int, ...], bytes]:
        # Most objects are small: one read is enough for head and value.
        body = self.read(at, 512)
        if len(body) < self.payload_at:
            raise JournalDamaged(f"{self.path}: ends in the middle of an object")
        kind, flags, size = _OBJECT.unpack_from(body)
        if kind != _DATA or not self.payload_at <= size <= _VALUE_MAX:
            raise JournalDamaged(f"{self.path}: no data at {at}")
        if size > len(body):
            body = self._exactly(at, size)
        payload = body[self.payload_at : size]
        return _DATA_LINKS.unpack_from(body), _decompress(flags, payload) if flags else payload

    def _object(self, at: int, kind: int) -> int:
        """The size of the object of a kind at an offset."""
        found, _, size = _OBJECT.unpack(self._exactly(at, _OBJECT.size))
        if found != kind or not 16 < size <= _VALUE_MAX:
            raise JournalDamaged(f"{self.path}: no object of type {kind} at {at}")
        return int(size)

    def _exactly(self, at: int, size: int) -> bytes:
        body = os.pread(self._fd, size, at) if 0 < at < self.size + _VALUE_MAX else b""
        if len(body) != size:
            raise JournalDamaged(f"{self.path}: ends in the middle of an object")
        return body


def _decompress(flags: int, payload: bytes) -> bytes:
    if flags & _OBJECT_ZSTD:
        return _unzstd(payload)
    if flags & _OBJECT_XZ:
        return lzma.LZMADecompressor().decompress(payload, _VALUE_MAX)
    # LZ4 was written by systemd 230 to 245 only, where a Debian had it compiled in.
    raise JournalDamaged("a value is compressed by LZ4")


@functools.cache
def _libzstd() -> ctypes.CDLL:
    # dpkg itself needs this library: it is on every Debian. Python has it from 3.14 on (compression.zstd).
    library = ctypes.CDLL(ctypes.util.find_library("zstd") or "libzstd.so.1")
    library.ZSTD_getFrameContentSize.restype = ctypes.c_ulonglong
    library.ZSTD_getFrameContentSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    library.ZSTD_decompress.restype = ctypes.c_size_t
    library.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    return library


def _unzstd(payload: bytes) -> bytes:
    library = _libzstd()
    size = library.ZSTD_getFrameContentSize(payload, len(payload))
    if size > _VALUE_MAX:
        raise JournalDamaged("a compressed value is damaged or too large")
    buffer = ctypes.create_string_buffer(max(1, size))
    if library.ZSTD_decompress(buffer, size, payload, len(payload)) != size:
        raise JournalDamaged("a compressed value is damaged")
    return buffer.raw[:size]
