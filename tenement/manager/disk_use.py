"""How much room tenants' data takes: measured after use and when asked for, one tenant at a time."""

import asyncio
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenement.names import TenantName
from tenement.unit_properties import data_path

_FRESH_S: Final = 30.0
_BLOCK_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Measure:
    """The room that a directory took at a time, in seconds since 1970. `files` counts directories too."""

    bytes: int
    files: int
    at: float


class DiskUse:
    """The last measure of each tenant."""

    def __init__(self) -> None:
        self._known: dict[TenantName, Measure] = {}
        self._one_at_a_time = asyncio.Lock()
        self._wanted: dict[TenantName, None] = {}
        self._task: asyncio.Task[None] | None = None

    async def of(self, name: TenantName, fresh_s: float = _FRESH_S) -> Measure:
        """The room that a tenant's data takes, at most so many seconds old."""
        async with self._one_at_a_time:
            known = self._known.get(name)
            if known is None or time.time() - known.at > fresh_s:
                known = self._known[name] = await asyncio.to_thread(measure, Path(data_path(name)))
            return known

    def used(self, name: TenantName) -> None:
        """The tenant has been in use: measure it when there is time."""
        self._wanted[name] = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._measure_wanted())

    def known(self) -> dict[str, int]:
        """Bytes of each service, of those tenants that have been measured."""
        sums: dict[str, int] = {}
        for name, found in self._known.items():
            sums[name.service] = sums.get(name.service, 0) + found.bytes
        return sums

    def forget(self, name: TenantName) -> None:
        """The tenant is gone."""
        self._known.pop(name, None)
        self._wanted.pop(name, None)

    async def close(self) -> None:
        """Measure no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _measure_wanted(self) -> None:
        while self._wanted:
            name = next(iter(self._wanted))
            del self._wanted[name]
            await self.of(name)


def measure(root: Path) -> Measure:
    """Walk a directory that somebody hostile may write to: links are not followed, what vanishes is skipped.

    Files with several names count once.
    """
    total_bytes, files = 0, 0
    seen: set[tuple[int, int]] = set()
    try:
        start = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return Measure(0, 0, time.time())
    try:
        for _, directories, names, fd in os.fwalk(dir_fd=start, follow_symlinks=False):
            for name in (*directories, *names):
                try:
                    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                except OSError:
                    continue
                if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                    if (found.st_dev, found.st_ino) in seen:
                        continue
                    seen.add((found.st_dev, found.st_ino))
                total_bytes += found.st_blocks * _BLOCK_BYTES
                files += 1
    finally:
        os.close(start)
    return Measure(total_bytes, files, time.time())
