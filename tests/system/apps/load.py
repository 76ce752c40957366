"""Many clients at once, each on its own kept connection, and every request accounted for."""

import asyncio
import hashlib
import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field

from tenement.client import Client

from ..conftest import Box
from . import Tenant

ANSWER_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Record:
    """One request: when it was under way, and how it ended: "right", a status, or the name of an error."""

    tenant: str
    began: float
    ended: float
    outcome: str
    detail: str = ""


@dataclass
class Tally:
    """All requests of a test, and the starts that answered them."""

    records: list[Record] = field(default_factory=list)
    invocations: set[tuple[str, str]] = field(default_factory=set)

    @property
    def wrong(self) -> list[Record]:
        return [record for record in self.records if record.outcome != "right"]

    def summary(self) -> str:
        kinds = Counter(record.outcome for record in self.records)
        return f"{len(self.records)} requests, {len(self.invocations)} starts: {dict(kinds)}"


class Visitor:
    """A client with one connection, which it opens again when it broke."""

    def __init__(self, tally: Tally, number: int) -> None:
        self._tally = tally
        self._number = number
        self._count = 0
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def visit(self, app: Tenant, body: bytes = b"") -> Record:
        """Send one request, a POST if it has a body, and check that the answer is the one to it."""
        self._count += 1
        target = f"/{self._number}/{self._count}"
        began = time.monotonic()
        detail = ""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                status, content = await self._exchange(app, target, body)
            if status != 200:
                outcome, detail = str(status), content.decode(errors="replace")
            else:
                outcome = self._judge(app, target, body, content)
        except (OSError, EOFError, ValueError) as error:
            outcome, detail = type(error).__name__, str(error)
            self.leave()
        record = Record(app.name, began, time.monotonic(), outcome, detail)
        self._tally.records.append(record)
        return record

    def leave(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, app: Tenant, target: str, body: bytes) -> tuple[int, bytes]:
        if self._streams is not None and self._streams[0].at_eof():
            # As every HTTP client does: a kept connection that was closed meanwhile is not used.
            self.leave()
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", 80)
        reader, writer = self._streams
        method, length = ("POST", f"Content-Length: {len(body)}\r\n") if body else ("GET", "")
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: {app.host}\r\n{length}\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        content = await reader.readexactly(size)
        if "connection: close" in head:
            self.leave()
        return int(head.split()[1]), content

    def _judge(self, app: Tenant, target: str, body: bytes, content: bytes) -> str:
        answer = json.loads(content)
        expected = (app.name, target, hashlib.sha256(body).hexdigest())
        if (answer["tenant"], answer["target"], answer["digest"]) != expected:
            return f"the answer to another request: {answer}"
        self._tally.invocations.add((app.name, answer["invocation"]))
        return "right"


def manager(box: Box) -> Client:
    """A client of the box's manager, from outside of the box."""
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={box.root}/run/dbus/system_bus_socket"
    return Client()
