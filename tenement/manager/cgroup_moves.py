"""Has the kernel get ready for the move of a process into a unit's control group, while PID 1 prepares it.

The first move in a while waits 5 to 15 ms for a grace period of RCU, and those soon after it do not: see
`cgroup_attach_lock` and `rcu_sync_enter` in the kernel's source. systemd makes one move for each process that
it starts, some 7 ms after it was asked to. A move begun at once, of a process to where it is, lets the
two times pass together. On a host with `favordynmods` no move waits, and this costs next to nothing.
"""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
_OWN: Final = Path("/proc/self/cgroup")
_WHOEVER_WRITES: Final = b"0"


class CgroupMoves:
    """Moves this process to the control group that it is in."""

    def __init__(self, root: Path = _ROOT, own: Path = _OWN) -> None:
        self._members: Path | None = None
        with suppress(OSError):
            # cgroups(7): of version 2 there is one line, which begins with 0.
            line = next((each for each in own.read_text().splitlines() if each.startswith("0::/")), None)
            self._members = root / line[4:] / "cgroup.procs" if line else None
        # It waits in the kernel, so it has a thread of its own.
        self._thread = ThreadPoolExecutor(1, "cgroup-move")
        self._move: Future[None] | None = None

    def expect(self) -> None:
        """A move will come soon. Returns at once, and does nothing while the last one is still under way."""
        if self._move is None or self._move.done():
            self._move = self._thread.submit(self._move_to_itself)

    def close(self) -> None:
        """Begin no other; waits for the one under way."""
        self._thread.shutdown()

    def _move_to_itself(self) -> None:
        if self._members is None:
            return
        try:
            members = os.open(self._members, os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            # Starts take a little longer, that is all.
            self._members = None
            return
        try:
            with suppress(OSError):
                os.write(members, _WHOEVER_WRITES)
        finally:
            os.close(members)
