"""`ten doctor`: what this host cannot enforce or does slower than it could, and what to do about it.

It looks and changes nothing, but for `--favordynmods`.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tenement.cli.text import out, out_json
from tenement.errors import TenementError
from tenement.manager.network import name_servers
from tenement.unit_properties import RESOLVERS

# See _SCOPE in tenement.unit_properties: the interface that has scopes came with Linux 6.12.
_LANDLOCK_SCOPES: Final = 6
_LANDLOCK_CREATE_RULESET: Final = 444
_LANDLOCK_VERSION: Final = 1
_FULL_SYSTEMD: Final = 257
_CONTROLLERS: Final = {
    "cpu": "cpu_shares and cpu_quota",
    "io": "io_weight",
    "memory": "memory_limit_mb and memory_high_mb",
    "pids": "tasks_max for all processes of a tenant together (each user's limit of processes holds instead)",
}
_FAVORDYNMODS: Final = "favordynmods"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Without a remedy all is well."""

    about: str
    what: str
    remedy: str = ""
    harmless: bool = False
    """Whether nothing is less safe for it."""


@dataclass(frozen=True, slots=True)
class Host:
    """What is looked at; tests make one up."""

    cgroup: Path = Path("/sys/fs/cgroup")
    mounts: Path = Path("/proc/self/mounts")
    resolv_conf: Path = Path("/etc/resolv.conf")

    def controllers(self) -> set[str]:
        """The controllers of control groups that systemd has for its units."""
        try:
            return set((self.cgroup / "cgroup.controllers").read_text().split())
        except OSError:
            return set()

    def cgroup_options(self) -> set[str] | None:
        """The options that control groups are mounted with; None if version 2 is not mounted there."""
        for line in self.mounts.read_text().splitlines():
            _, place, kind, options, *_ = line.split()
            if kind == "cgroup2" and place == str(self.cgroup):
                return set(options.split(","))
        return None

    @staticmethod
    def landlock() -> int:
        """The version of the kernel's Landlock interface; 0 if there is none. See landlock(7)."""
        libc = ctypes.CDLL(None)
        return max(0, int(libc.syscall(ctypes.c_long(_LANDLOCK_CREATE_RULESET), None, 0, _LANDLOCK_VERSION)))

    @staticmethod
    def systemctl(*words: str) -> str:
        """What systemctl prints."""
        done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()


def examine(host: Host) -> Iterator[Finding]:
    """Look at everything."""
    yield from _systemd(host)
    yield from _limits(host)
    yield from _filters(host)
    yield from _abstract_sockets(host)
    yield from _names(host)
    yield from _quotas()
    yield from _speed(host)


def _systemd(host: Host) -> Iterator[Finding]:
    digits = host.systemctl("--version").split()[1:2]
    version = int("".join(c for c in digits[0] if c.isdigit()) or 0) if digits else 0
    if version >= _FULL_SYSTEMD:
        yield Finding("systemd", f"version {version}")
    else:
        yield Finding(
            "systemd",
            f"version {version}: tenants can list the names of other tenants' control groups",
            f"Upgrade to systemd {_FULL_SYSTEMD} or newer (Debian 13 has it).",
        )


def _limits(host: Host) -> Iterator[Finding]:
    there = host.controllers()
    for controller, settings in _CONTROLLERS.items():
        if controller in there:
            yield Finding(f"limits: {controller}", "enforced by the kernel")
        else:
            yield Finding(
                f"limits: {controller}",
                f"the kernel has no {controller} controller for systemd: not enforced are {settings}",
                "Boot with systemd.unified_cgroup_hierarchy=1, and cgroup_enable=memory for memory; in a "
                "container, have its host delegate the controller.",
            )


def _filters(host: Host) -> Iterator[Finding]:
    if host.systemctl("is-active", "tenement-network-filter.service") == "active":
        yield Finding("network filters", "loaded")
    else:
        yield Finding(
            "network filters",
            "not loaded: tenants reach services of this host that listen on all addresses, and the internet "
            "reaches apps that do",
            "See 'systemctl status tenement-network-filter', then restart it. The kernel needs "
            "CONFIG_CGROUP_BPF, and a container the right to use BPF. Until then let services of this host "
            "listen on 127.0.0.1 or on its own addresses only.",
        )


def _abstract_sockets(host: Host) -> Iterator[Finding]:
    if host.landlock() >= _LANDLOCK_SCOPES:
        yield Finding("abstract unix sockets", "closed to tenants by Landlock")
    else:
        yield Finding(
            "abstract unix sockets",
            "the kernel cannot close those of others and of this host to tenants",
            'Use Linux 6.12 or newer with Landlock, or network = "none" for services that need no network.',
        )


def _names(host: Host) -> Iterator[Finding]:
    servers = name_servers(host.resolv_conf)
    closed = [each for each in servers if each.startswith(("127.", "::1")) and each not in RESOLVERS]
    if closed and len(closed) == len(servers):
        yield Finding(
            "name resolution",
            f"/etc/resolv.conf names only {', '.join(closed)}, closed to tenants: they resolve no names",
            "Use systemd-resolved, or a name server on another machine.",
            harmless=True,
        )
    else:
        yield Finding("name resolution", "open to tenants")


def _quotas() -> Iterator[Finding]:
    yield Finding(
        "storage quotas", "single files are limited by the kernel, the sum is measured while a tenant runs"
    )


def _speed(host: Host) -> Iterator[Finding]:
    options = host.cgroup_options()
    if options is None or _FAVORDYNMODS in options:
        yield Finding("starts", "as fast as they get")
    else:
        yield Finding(
            "starts",
            "could take 6 to 10 ms less, for a little dearer fork() and exit() of every program",
            "Run 'ten doctor --favordynmods' as root; it cannot be undone before a reboot. To keep it, boot "
            "with cgroup_favordynmods=true.",
            harmless=True,
        )


def doctor(*, as_json: bool, host: Host | None = None) -> int:
    """Print what was found; 1 if this host does not enforce all that tenement promises."""
    found = list(examine(host or Host()))
    if as_json:
        out_json([asdict(each) for each in found])
    else:
        for each in found:
            mark = "ok" if not each.remedy else "note" if each.harmless else "WARN"
            out(f"{mark:<4}  {each.about}: {each.what}")
            if each.remedy:
                out(f"      {each.remedy}")
    return int(any(each.remedy and not each.harmless for each in found))


def favordynmods(host: Host | None = None) -> int:
    """Have the kernel move processes between control groups quickly, until the next boot.

    Since Linux 6.0, see its documentation of control groups, and only in the first cgroup namespace;
    elsewhere mount(8) says nothing and nothing happens. Raises TenementError.
    """
    host = host or Host()
    options = host.cgroup_options()
    if options is None:
        raise TenementError(f"control groups of version 2 are not mounted at {host.cgroup}")
    if os.geteuid() != 0:
        raise TenementError("only root can change how control groups are mounted. Use sudo.")
    # A remount sets all options anew: those that systemd has set stay as they are.
    kept = options & {"nsdelegate", "memory_recursiveprot", "memory_localevents", "memory_hugetlb_accounting"}
    wanted = ",".join(["remount", *sorted(kept), _FAVORDYNMODS])
    done = subprocess.run(
        ["mount", "-o", wanted, str(host.cgroup)], capture_output=True, text=True, check=False
    )
    if done.returncode or _FAVORDYNMODS not in (host.cgroup_options() or ()):
        why = done.stderr.strip() or "the kernel ignored it, as it does in a container or before Linux 6.0"
        raise TenementError(f"favordynmods is not on: {why}")
    out("favordynmods is on until the next boot. To keep it, boot with cgroup_favordynmods=true.")
    return 0
