"""What the manager counts, by service: wakes and how long they took, sleeps, restarts, failures.

The counts of a service are memory that the manager maps from a file. Counting is an addition without a
system call, and whatever ends the manager, the next one goes on from the very same counts: one that had lost
only the last few would look to Prometheus like one that began again. They end when the machine does.
"""

import asyncio
import contextlib
import mmap
import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tenement.config import Config
from tenement.lifecycle import AWAKE, State
from tenement.manager.supervisor import Tenant

DIRECTORY: Final = Path("/run/tenement/counts")
"""Where the package has them: a file for each service, of its name."""

WAKE_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of wake durations, in seconds; one more bucket has no bound."""

_WAKES: Final = {State.QUEUED: "asleep", State.THAWING: "frozen"}
# A request may come while the gate is being built.
_ARMED: Final = (State.ARMING, State.ARMED)
_FAILURES: Final = (State.BACKOFF, State.FAILED)

# Cells, unsigned numbers of 8 bytes in the machine's own byte order: the layout; then for each kind of wake
# its buckets and the sum of durations in microseconds; then the rest, one each.
_LAYOUT: Final = 1
_BUCKETS: Final = len(WAKE_BOUNDS_S) + 1
_KINDS: Final = ("asleep", "armed", "frozen")
_WAKE: Final = {kind: 1 + number * (_BUCKETS + 1) for number, kind in enumerate(_KINDS)}
_OTHERS: Final = 1 + len(_KINDS) * (_BUCKETS + 1)
_SLEEP: Final = {"frozen": _OTHERS, "asleep": _OTHERS + 1}
_RESTARTS: Final = _OTHERS + 2
_FAILED: Final = _OTHERS + 3
_BYTES: Final = 8 * (_OTHERS + 4)


class ServiceCounts:
    """The counts of one service.

    Without a path, or where the file cannot be had, they end with the process.
    """

    def __init__(self, path: Path | None) -> None:
        memory = mmap.mmap(-1, _BYTES)
        if path is not None:
            with contextlib.suppress(OSError):
                memory = _map(path)
        self._cells = memoryview(memory).cast("Q")
        if self._cells[0] != _LAYOUT:
            self._cells[:] = memoryview(bytes(_BYTES)).cast("Q")
            self._cells[0] = _LAYOUT

    def woke(self, kind: str, duration_s: float) -> None:
        """Count a wake from "asleep", "armed" or "frozen"."""
        first = _WAKE[kind]
        self._cells[first + bisect_left(WAKE_BOUNDS_S, duration_s)] += 1
        self._cells[first + _BUCKETS] += int(duration_s * 1e6)

    def slept(self, depth: str) -> None:
        """Count a sleep, "frozen" or "asleep"."""
        self._cells[_SLEEP[depth]] += 1

    def restarted(self) -> None:
        """Count a start after a failure."""
        self._cells[_RESTARTS] += 1

    def failed(self) -> None:
        """Count an end that was not wanted."""
        self._cells[_FAILED] += 1

    def document(self) -> dict[str, Any]:
        """All of them, as plain values for JSON; buckets are not cumulative."""
        cells = self._cells
        return {
            "wakes": {
                kind: [cells[first : first + _BUCKETS].tolist(), cells[first + _BUCKETS] / 1e6]
                for kind, first in _WAKE.items()
            },
            "sleeps": {depth: cells[cell] for depth, cell in _SLEEP.items()},
            "restarts": cells[_RESTARTS],
            "failures": cells[_FAILED],
        }


class Measurements:
    """Counts what happens to tenants. `directory` None keeps nothing for the next manager."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._services: dict[str, ServiceCounts] = {}
        self._waking: dict[Tenant, tuple[str, float]] = {}
        # On their way to sleep; what else stops was armed, and slept already.
        self._retiring: set[Tenant] = set()

    def changed(self, tenant: Tenant, before: State) -> None:
        """A tenant is in another state now."""
        state, counts = tenant.state, self._of(tenant.name.service)
        now = asyncio.get_running_loop().time()
        if kind := _WAKES.get(state, "armed" if state is State.STARTING and before in _ARMED else ""):
            self._waking[tenant] = (kind, now)
        elif state is State.RUNNING:
            kind, began = self._waking.pop(tenant, ("", now))
            if kind:
                counts.woke(kind, now - began)
        elif state is not State.STARTING:
            self._waking.pop(tenant, None)
        if state in _FAILURES:
            counts.failed()
        elif state is State.STARTING and before is State.BACKOFF:
            counts.restarted()
        if state is State.FROZEN:
            counts.slept("frozen")
        elif state is State.STOPPING and before in AWAKE:
            self._retiring.add(tenant)
        elif tenant in self._retiring:
            self._retiring.remove(tenant)
            # Queued: somebody wants it again already.
            if state in (State.ASLEEP, State.QUEUED):
                counts.slept("asleep")

    def document(self, config: Config, tenants: Iterable[Tenant]) -> dict[str, Any]:
        """Everything, as plain values for JSON, by the services that are configured or have tenants.

        Tenants are named only if `metrics_per_tenant` is set.
        """
        states: dict[str, Counter[str]] = {}
        leases: Counter[str] = Counter()
        named = []
        for tenant in tenants:
            service = tenant.name.service
            states.setdefault(service, Counter())[str(tenant.state)] += 1
            leases[service] += len(tenant.life.leases)
            if config.settings.metrics_per_tenant:
                named.append([str(tenant.name), str(tenant.state), len(tenant.life.leases)])
        services = {
            service: {
                "states": dict(states.get(service, ())),
                "leases": leases[service],
                **self._of(service).document(),
            }
            for service in sorted({*config.services, *states})
        }
        return {"bounds": WAKE_BOUNDS_S, "services": services, "tenants": named}

    def _of(self, service: str) -> ServiceCounts:
        counts = self._services.get(service)
        if counts is None:
            path = self._directory / service if self._directory else None
            counts = self._services[service] = ServiceCounts(path)
        return counts


def _map(path: Path) -> mmap.mmap:
    """A file of cells, made if need be. Raises OSError."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.fstat(fd).st_size != _BYTES:
            os.ftruncate(fd, 0)
            # A hole in a file system that is full would end the process when it is written to.
            os.posix_fallocate(fd, 0, _BYTES)
        return mmap.mmap(fd, _BYTES, trackfd=False)
    finally:
        os.close(fd)
