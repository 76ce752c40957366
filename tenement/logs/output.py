"""How found lines are written: as journalctl writes them in the formats that a search has, and as JSON."""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from tenement.logs.journal_file import Entry
from tenement.names import TenantName

_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_UNIT_FIELDS: Final = ("_SYSTEMD_UNIT", "UNIT", "OBJECT_SYSTEMD_UNIT")
_TAB: Final = " " * 8

type Writer = Callable[[Entry], bytes]


def writer(form: str, *, utc: bool) -> Writer:
    """The function that writes an entry in a format of journalctl's or in `record`. Raises ValueError."""
    if form == "record":
        return lambda entry: json.dumps(record(_fields(entry))).encode() + b"\n"
    if form == "json":
        return lambda entry: json.dumps(_fields(entry)).encode() + b"\n"
    if form == "cat":
        return lambda entry: (entry.fields.get("MESSAGE") or [b""])[0] + b"\n"
    if form in _STAMPS:
        return lambda entry: _short(entry, _STAMPS[form](_when(entry, utc=utc)))
    raise ValueError(f"--search has no format {form!r}: use {', '.join((*_STAMPS, 'cat', 'json'))}")


def record(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What matters of a line, for programs. `fields` are those of journalctl's `--output=json`.

    `time` is when the line was received, in RFC 3339; `invocation` and `boot` tell which run of the app and
    of the host it is from. `tenant` is journald's word and not the line's own.
    """
    usec = int(text_of(fields.get("__REALTIME_TIMESTAMP")) or 0)
    return {
        "time": datetime.fromtimestamp(usec / 1e6, UTC).isoformat(timespec="microseconds"),
        "tenant": _tenant(fields),
        "priority": _number(fields.get("PRIORITY"), 6),
        "message": text_of(fields.get("MESSAGE")) or "",
        "pid": _number(fields.get("_PID"), None),
        "invocation": text_of(fields.get("_SYSTEMD_INVOCATION_ID") or fields.get("INVOCATION_ID")),
        "boot": text_of(fields.get("_BOOT_ID")),
        "cursor": text_of(fields.get("__CURSOR")),
    }


def text_of(value: object) -> str | None:
    """A field's value as text: journalctl writes bytes as numbers, and several values as a list of them."""
    match value:
        case None:
            return None
        case [int(), *_]:
            return bytes(each for each in value if isinstance(each, int)).decode("utf-8", "replace")
        case [first, *_]:
            return text_of(first)
        case _:
            # Half a character cannot be written as UTF-8.
            return str(value).encode("utf-8", "replace").decode()


def _number[T](value: object, default: T) -> int | T:
    text = text_of(value) or ""
    return int(text) if text.isascii() and text.isdigit() else default


def _tenant(fields: Mapping[str, Any]) -> str | None:
    for field in _UNIT_FIELDS:
        if (unit := text_of(fields.get(field))) and (name := TenantName.parse_unit(unit)):
            return str(name)
    return None


def _fields(entry: Entry) -> dict[str, Any]:
    """An entry as journalctl's JSON has it, but with what is no UTF-8 replaced."""
    found: dict[str, Any] = {
        "__CURSOR": entry.cursor,
        "__REALTIME_TIMESTAMP": str(entry.realtime_usec),
        "__MONOTONIC_TIMESTAMP": str(entry.monotonic_usec),
        "__SEQNUM": str(entry.seqnum),
        "__SEQNUM_ID": entry.seqnum_id,
        "_BOOT_ID": entry.boot_id,
    }
    for name, values in entry.fields.items():
        texts = [value.decode("utf-8", "replace") for value in values]
        found[name] = texts[0] if len(texts) == 1 else texts
    return found


def _when(entry: Entry, *, utc: bool) -> datetime:
    source = entry.text("_SOURCE_REALTIME_TIMESTAMP")
    usec = int(source) if source.isascii() and source.isdigit() and len(source) < 18 else entry.realtime_usec
    moment = datetime.fromtimestamp(usec // 1_000_000, UTC).replace(microsecond=usec % 1_000_000)
    return moment if utc else moment.astimezone()


def _iso(moment: datetime, *, precise: bool) -> str:
    digits = f".{moment.microsecond:06}" if precise else ""
    zone = moment.strftime("%z")
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + digits + f"{zone[:3]}:{zone[3:5]}"


_STAMPS: Final[dict[str, Callable[[datetime], str]]] = {
    "short": lambda at: at.strftime("%b %d %H:%M:%S"),
    "short-precise": lambda at: at.strftime("%b %d %H:%M:%S") + f".{at.microsecond:06}",
    "short-iso": lambda at: _iso(at, precise=False),
    "short-iso-precise": lambda at: _iso(at, precise=True),
}


def _short(entry: Entry, stamp: str) -> bytes:
    source = entry.text("SYSLOG_IDENTIFIER") or entry.text("_COMM") or "unknown"
    pid = entry.text("_PID") or entry.text("SYSLOG_PID")
    head = f"{stamp} {entry.text('_HOSTNAME')} {source}{f'[{pid}]' if pid else ''}: "
    return (head + _message(entry, len(head))).encode() + b"\n"


def _message(entry: Entry, indent: int) -> str:
    raw = (entry.fields.get("MESSAGE") or [b""])[0]
    try:
        text = _ESCAPES.sub("", raw.decode()).replace("\t", _TAB).rstrip()
    except UnicodeDecodeError:
        text = "\0"
    if _CONTROL.search(text):
        return f"[{_size(len(raw))} blob data]"
    return ("\n" + " " * indent).join(text.split("\n"))


def _size(count: int) -> str:
    """A number of bytes as systemd writes it: 812B, 4.1K."""
    if count < 1024:
        return f"{count}B"
    tenths = count * 10 // 1024
    return f"{tenths // 10}.{tenths % 10}K" if count < 1024**2 else f"{count * 10 // 1024**2 / 10}M"
