"""The access log: one structured entry a request in the journal, sent off the hot path.

Entries are collected and sent in the journal's native protocol (systemd's JOURNAL_NATIVE_PROTOCOL): a
datagram each, from the worker's sweep. A journal that does not keep up costs entries, never a request; how
many is logged.
"""

import logging
import socket
from typing import Final, NamedTuple

log = logging.getLogger(__name__)

SOCKET: Final = "/run/systemd/journal/socket"
_MAX_QUEUED: Final = 10_000


class Entry(NamedTuple):
    """What is known of a request at its end. `sent_bytes` counts head and body of the answer."""

    tenant: str
    method: bytes
    status: int
    duration_s: float
    sent_bytes: int
    request_id: bytes
    host: bytes
    target: bytes
    peer: str


class AccessLog:
    """Collects entries and sends them to the journal. `mode`: "off", "errors" (400 and above) or "all"."""

    def __init__(self, path: str = SOCKET) -> None:
        self.threshold = 400
        self._path = path
        self._queue: list[Entry] = []
        self._dropped = 0
        self._socket: socket.socket | None = None

    def set_mode(self, mode: str) -> None:
        """Follow the setting `access_log`."""
        self.threshold = {"off": 1000, "all": 0}.get(mode, 400)

    def add(self, entry: Entry) -> None:
        """Keep an entry until the next flush."""
        if len(self._queue) < _MAX_QUEUED:
            self._queue.append(entry)
        else:
            self._dropped += 1

    @property
    def pending(self) -> bool:
        """Whether there is something to flush."""
        return bool(self._queue or self._dropped)

    def flush(self) -> None:
        """Send what was collected, as much as the journal takes."""
        if self._dropped:
            log.warning("access log: %d entries dropped, the journal does not keep up", self._dropped)
            self._dropped = 0
        if not self._queue:
            return
        queue, self._queue = self._queue, []
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
                self._socket.connect(self._path)
            for number, entry in enumerate(queue):
                try:
                    self._socket.send(encode(entry))
                except BlockingIOError:
                    self._queue = queue[number:] + self._queue
                    return
        except OSError as error:
            self._dropped += len(queue)
            log.debug("access log: the journal is not there: %s", error)
            self.close()

    def close(self) -> None:
        """Close the socket; the next flush opens it again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def encode(entry: Entry) -> bytes:
    """The entry as the journal takes it. Line ends cannot occur in any of the values: heads were checked for
    them.
    """
    target = entry.target[:1024].decode("utf-8", "backslashreplace")
    host = entry.host.decode("utf-8", "backslashreplace")
    method = entry.method.decode("latin-1")
    duration_us = int(entry.duration_s * 1e6)
    return (
        f"MESSAGE={method} {host}{target} {entry.status} {duration_us / 1000:.1f} ms\n"
        f"PRIORITY={4 if entry.status >= 500 else 6}\nSYSLOG_IDENTIFIER=tenement-proxy\n"
        f"TENANT={entry.tenant}\nMETHOD={method}\nSTATUS={entry.status}\nDURATION_US={duration_us}\n"
        f"BYTES={entry.sent_bytes}\nREQUEST_ID={entry.request_id.decode()}\nPEER={entry.peer}\n"
    ).encode()
