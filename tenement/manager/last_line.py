"""The last line an app printed, from the journal: usually it says why the app ended."""

import asyncio
from typing import Final

from systemd import journal

from tenement.names import TenantName

_LENGTH_MAX: Final = 300


async def last_line(name: TenantName, invocation: str | None) -> str | None:
    """The last line that the tenant printed, in that invocation if one is given; None if there is none."""
    return await asyncio.to_thread(_read, name, invocation)


def _read(name: TenantName, invocation: str | None) -> str | None:
    with journal.Reader(journal.LOCAL_ONLY) as reader:
        reader.add_match(_SYSTEMD_UNIT=name.unit)
        reader.add_match(_TRANSPORT="stdout")
        if invocation:
            reader.add_match(_SYSTEMD_INVOCATION_ID=invocation)
        reader.seek_tail()
        entry = reader.get_previous()
    message = entry.get("MESSAGE") if entry else None
    if isinstance(message, bytes):
        message = message.decode(errors="replace")
    if not message:
        return None
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in message.strip())
    return printable if len(printable) <= _LENGTH_MAX else printable[: _LENGTH_MAX - 3] + "..."
