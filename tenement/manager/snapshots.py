"""Copies of tenants' data, made before a release may change it, and put back if it should not have.

They lie beside the data, on the same file system: a copy shares its blocks where the file system can do that,
and to put one back is to rename it. Every function blocks; the tenant must not run.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tenement.errors import Overloaded, TenementError
from tenement.names import TenantName

DATA: Final = Path("/var/lib/private/tenement")
SNAPSHOTS: Final = DATA / ".snapshots"
"""No service can be called so."""

_NOBODY: Final = 65534
_RESERVE: Final = 0.05
"""The share of the file system that a copy leaves free: the other tenants go on writing."""


class SnapshotFailed(TenementError):
    """The data could not be copied or put back."""


def take(name: TenantName) -> None:
    """Copy the tenant's data, of which there is no copy yet.

    Raises Overloaded if there is no room for it, and SnapshotFailed.
    """
    source, copy = DATA / name.service / name.id, _path(name)
    partial = copy.with_name(copy.name + "@partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not source.is_dir():
        partial.mkdir(mode=0o700)
        os.chown(partial, _NOBODY, _NOBODY)
    elif not _copied(source, partial, "always"):
        shutil.rmtree(partial, ignore_errors=True)
        _check_room(name, source)
        if fault := _copy(source, partial, "never"):
            shutil.rmtree(partial, ignore_errors=True)
            raise SnapshotFailed(f"{name}: its data cannot be copied: {fault}", tenant=str(name))
    partial.rename(copy)


def put_back(name: TenantName) -> bool:
    """Replace the tenant's data by its copy; False if there is none. Raises SnapshotFailed."""
    copy, data = _path(name), DATA / name.service / name.id
    if not copy.exists():
        return False
    spoilt = copy.with_name(copy.name + "@spoilt")
    try:
        if data.exists():
            shutil.rmtree(spoilt, ignore_errors=True)
            data.rename(spoilt)
        data.parent.mkdir(parents=True, exist_ok=True)
        copy.rename(data)
    except OSError as error:
        raise SnapshotFailed(f"{name}: its data in {copy} cannot be put back: {error.strerror}") from error
    shutil.rmtree(spoilt, ignore_errors=True)
    return True


def drop(name: TenantName) -> None:
    """Forget the copy."""
    shutil.rmtree(_path(name), ignore_errors=True)


def existing() -> list[TenantName]:
    """The tenants of which there is a copy."""
    found = []
    for path in SNAPSHOTS.glob("*/*"):
        try:
            found.append(TenantName(path.parent.name, path.name))
        except TenementError:
            # Half made, or spoilt data.
            shutil.rmtree(path, ignore_errors=True)
    return found


def _path(name: TenantName) -> Path:
    return SNAPSHOTS / name.service / name.id


def _copied(source: Path, to: Path, reflink: str) -> bool:
    return _copy(source, to, reflink) is None


def _copy(source: Path, to: Path, reflink: str) -> str | None:
    """Copy with everything that a file has; gives what went wrong."""
    command = ["cp", "--archive", f"--reflink={reflink}", "--no-target-directory", "--", str(source), str(to)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["cp failed"])[-1]


def _check_room(name: TenantName, source: Path) -> None:
    needed = sum(
        os.lstat(os.path.join(directory, file)).st_blocks * 512
        for directory, directories, files in os.walk(source)
        for file in (*directories, *files)
    )
    system = os.statvfs(SNAPSHOTS)
    room = (system.f_bavail - system.f_blocks * _RESERVE) * system.f_frsize
    if needed > room:
        raise Overloaded(
            f"{name}: no room for a copy of its data, which has {needed >> 20} MiB: "
            f"{max(0, int(room)) >> 20} MiB are free on {SNAPSHOTS}, and 5% stay reserved",
            tenant=str(name),
        )
