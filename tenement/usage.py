"""What a tenant's processes use, from their control group, which everybody may read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenement.names import TenantName

CGROUPS: Final = Path("/sys/fs/cgroup/tenement.slice")


@dataclass(frozen=True, slots=True)
class Use:
    """What a unit uses since its start; None is what the kernel does not count, or a unit that is gone."""

    cpu_usec: int | None
    memory_bytes: int | None
    tasks: int | None


def use_of(name: TenantName, root: Path = CGROUPS) -> Use:
    """What a tenant uses now."""
    group = root / name.slice / name.unit
    cpu_usec = None
    for line in _read(group / "cpu.stat").splitlines():
        key, _, value = line.partition(" ")
        if key == "usage_usec":
            cpu_usec = _number(value)
    return Use(cpu_usec, _number(_read(group / "memory.current")), _number(_read(group / "pids.current")))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None
