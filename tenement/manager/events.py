"""What happened to tenants: the latest for whoever asks, and a stream for whoever watches.

A watcher reads JSON lines from a pipe. One that does not read fast enough loses its pipe, never holds up the
manager; it opens another one and reads the list anew.
"""

import contextlib
import fcntl
import json
import os
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from tenement.errors import Overloaded
from tenement.lifecycle import State
from tenement.manager.supervisor import Tenant

_KEPT: Final = 500
_WATCHERS_MAX: Final = 64
_PIPE_BYTES: Final = 1024 * 1024
# The states that a tenant stays in; what lies between them is the way there.
_TOLD: Final = frozenset(
    {State.RUNNING, State.FROZEN, State.ASLEEP, State.BACKOFF, State.FAILED, State.DISABLED, State.GONE}
)

type Describe = Callable[[Tenant], dict[str, Any]]
type Entry = dict[str, Any]


class Events:
    """The events of this run of the manager. `describe` gives a tenant as `List` has it."""

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self._latest: deque[Entry] = deque(maxlen=_KEPT)
        self._watchers: dict[int, None] = {}

    def latest(self, tenant: str = "") -> list[Entry]:
        """The latest events, newest first: of all tenants, or of one."""
        return [entry for entry in reversed(self._latest) if tenant in ("", entry["tenant"])]

    def watch(self) -> int:
        """A new stream: the end to read, which the caller closes. Raises Overloaded."""
        if len(self._watchers) >= _WATCHERS_MAX:
            self._drop_abandoned()
        if len(self._watchers) >= _WATCHERS_MAX:
            raise Overloaded(f"there are {_WATCHERS_MAX} watchers already", retry_after_s=5.0)
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        with contextlib.suppress(OSError):
            # More than an unprivileged process may have in all: then the pipe stays as it is.
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._watchers[write] = None
        return read

    def changed(self, tenant: Tenant, before: State) -> None:
        """A tenant is in another state now."""
        state = tenant.state
        if state in _TOLD and not (state is State.ASLEEP and before is State.ARMING):
            self.add(str(tenant.name), str(state), tenant.life.reason)
        if self._watchers:
            gone = state is State.GONE
            self._tell({"tenant": str(tenant.name), "state": "gone"} if gone else self._describe(tenant))

    def add(self, tenant: str, what: str, why: str | None, who: str | None = None) -> None:
        """Keep an event: `what` became of the tenant, or what was done to it by `who`."""
        self._latest.append(
            {"time": round(time.time(), 3), "tenant": tenant, "what": what, "why": why, "who": who}
        )

    def close(self) -> None:
        """End every stream."""
        for fd in self._watchers:
            os.close(fd)
        self._watchers.clear()

    def _tell(self, document: dict[str, Any]) -> None:
        line = json.dumps(document, separators=(",", ":")).encode() + b"\n"
        for fd in list(self._watchers):
            self._write(fd, line)

    def _write(self, fd: int, line: bytes) -> None:
        # Lines are shorter than PIPE_BUF or written in part only when the pipe is full: see pipe(7).
        try:
            whole = os.write(fd, line) == len(line)
        except OSError:
            whole = False
        if not whole:
            del self._watchers[fd]
            os.close(fd)

    def _drop_abandoned(self) -> None:
        """Close streams whose reader is gone: an empty line tells."""
        for fd in list(self._watchers):
            self._write(fd, b"\n")
