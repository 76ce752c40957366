"""One booted box."""

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from boxes import CACHE, PATH_IN_BOX, SOURCE
from boxes.layer import ensure, layer, mount, overlay
from boxes.package import build_packages
from boxes.process import BoxError, report

BOOT_TIMEOUT_S = 90.0
# nspawn's exit status when its machine wants to be started again (--keep-unit leaves that to its parent).
REBOOTED = 133
# All namespaces, and root and working directory: options of nsenter(1).
NAMESPACES = ("-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w")

# systemd in the box needs BPF and keys; programs may give up rights by Landlock.
OUTER_FILTER = "bpf @keyring landlock_create_ruleset landlock_add_rule landlock_restrict_self"


def cgroup2_root() -> Path:
    """Find where cgroup v2 is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] == "cgroup2":
            return Path(before.split()[4])
    raise BoxError("cgroup v2 is not mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")


class Box:
    """One booted machine. Use as a context manager: on leaving, whatever happened, nothing of it remains.

    `state` is a file for other processes: {"leader": pid of its PID 1, "boots": how often it came up,
    "ready": bool, "cgroup": its cgroup}. It is replaced whenever the box reboots.
    """

    def __init__(self, name: str, layer_name: str, packages: Sequence[Path]) -> None:
        self.name = name
        self.layer = layer(layer_name)
        self.packages = packages
        self.directory = CACHE / "boxes" / name
        self.state = self.directory / "shared" / "state.json"
        self.console = self.directory / "console.log"
        self.root = self.directory / "root"
        self.cgroup = cgroup2_root() / f"tenement-{name}"
        self.boot_cgroup = self.cgroup
        self.leader = 0
        self.boots = 0
        self.ready = False
        self._changed = threading.Condition()
        self._stack = contextlib.ExitStack()
        self._ended = False
        self._stopping = False

    def __enter__(self) -> "Box":
        try:
            self._boot()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _boot(self) -> None:
        ensure(self.layer)
        self.state.parent.mkdir(parents=True)
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        lock = self._stack.enter_context((self.directory / "lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        directories = (self.directory / "upper", self.directory / "work", self.root)
        self._stack.enter_context(overlay(self.layer.stack, *directories))
        (self.root / "src").mkdir()
        for package in self.packages:
            shutil.copy(package, self.root / "srv")
        self.cgroup.mkdir()
        self._stack.callback(self._remove_cgroup)
        notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        notifications.bind(str(self.directory / "notify"))
        threading.Thread(target=self._follow, args=(notifications,), daemon=True).start()
        # nspawn keeps state here, and when it ends refuses to clear it away if /run is no tmpfs.
        own_state = Path("/run/systemd/nspawn")
        own_state.mkdir(parents=True, exist_ok=True)
        mount("-t", "tmpfs", "tmpfs", own_state)
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()
        self._stack.callback(self._stop)
        self.wait_ready()

    def _supervise(self) -> None:
        """Run nspawn, and run it again when the box has rebooted."""
        with self.console.open("wb") as console:
            for number in itertools.count(1):
                self.boot_cgroup = self.cgroup / f"boot-{number}"
                self.boot_cgroup.mkdir()
                enter_cgroup = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(self.boot_cgroup)]
                # The thread that starts nspawn is the parent whose end nspawn must not survive.
                process = subprocess.Popen(
                    [*enter_cgroup, "setpriv", "--pdeathsig", "KILL", *self._nspawn()],
                    env=self._nspawn_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    start_new_session=True,
                )
                status = process.wait()
                if status != REBOOTED or self._stopping:
                    break
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _nspawn_environment(self) -> dict[str, str]:
        return {
            "NOTIFY_SOCKET": str(self.directory / "notify"),
            "PATH": PATH_IN_BOX,
            "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
        }

    def _nspawn(self) -> list[str]:
        return [
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--notify-ready=yes"),
            *("--private-network", "--capability=all", f"--system-call-filter={OUTER_FILTER}"),
            *("--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=pipe"),
            *(f"--machine={self.name}", "--hostname=box", f"--directory={self.root}"),
            f"--bind-ro={SOURCE}:/src",
        ]

    def _follow(self, notifications: socket.socket) -> None:
        """Take down what nspawn says of its machine, until the process ends."""
        while True:
            message = notifications.recv(4096).decode(errors="replace").splitlines()
            fields = dict(line.split("=", 1) for line in message if "=" in line)
            with self._changed:
                if (leader := int(fields.get("X_NSPAWN_LEADER_PID", 0))) and leader != self.leader:
                    self.leader, self.ready = leader, False
                # PID 1 says so again after each daemon-reload.
                if fields.get("READY") == "1" and not self.ready:
                    self.ready = True
                    self.boots += 1
                self._publish()
                self._changed.notify_all()

    def _publish(self) -> None:
        cgroup = f"{self.boot_cgroup}/payload"
        state = {"leader": self.leader, "boots": self.boots, "ready": self.ready, "cgroup": cgroup}
        new = self.state.with_suffix(".new")
        with contextlib.suppress(FileNotFoundError):
            new.write_text(json.dumps(state))
            new.rename(self.state)

    def wait_ready(self) -> None:
        """Wait until the box has finished booting."""
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        with self._changed:
            while not (self.ready and self.leader):
                self._changed.wait(0.2)
                if self._ended:
                    raise BoxError("systemd-nspawn ended before the box was up", self._keep_console())
                if time.monotonic() > deadline:
                    raise BoxError(f"the box was not up after {BOOT_TIMEOUT_S:.0f} s", self._keep_console())

    def _keep_console(self) -> Path:
        kept = CACHE / "log" / "console.log"
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.console, kept)
        return kept

    def _stop(self) -> None:
        """End the machine at once: it is thrown away, so there is nothing to save."""
        self._stopping = True
        kill_cgroup(self.cgroup)
        self._supervisor.join(10)

    def _remove_cgroup(self) -> None:
        remove_cgroup(self.cgroup)

    def command(self, *arguments: str) -> list[str]:
        """Return the command line that runs `arguments` as root in all namespaces and a cgroup of the box."""
        commands = self.boot_cgroup / "payload" / "commands"
        commands.mkdir(exist_ok=True)
        enter = ["nsenter", "-t", str(self.leader), *NAMESPACES, "env", "-i"]
        environment = [
            f"PATH={PATH_IN_BOX}",
            "HOME=/root",
            "LC_ALL=C.UTF-8",
            f"TERM={os.environ.get('TERM', 'dumb')}",
        ]
        join = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(commands)]
        return [*join, *enter, *environment, *arguments]

    def run(self, *arguments: str, log: Path | None = None) -> int:
        """Run a command in the box and return its exit status; with `log` its output goes there."""
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(log.open("ab")) if log else None
            stdin = subprocess.DEVNULL if log else None
            process = subprocess.Popen(self.command(*arguments), stdin=stdin, stdout=output, stderr=output)
            try:
                status = process.wait()
            except BaseException:
                process.kill()
                process.wait()
                raise
        return status if status >= 0 else 128 - status

    def install(self) -> None:
        """Install the packages with apt, set up the notes example, and wait until tenement answers."""
        log = CACHE / "log" / f"install-{self.name}.log"
        log.write_bytes(b"")
        script = (SOURCE / "tools" / "box-setup").read_text()
        packages = [f"/srv/{package.name}" for package in self.packages]
        status = self.run("sh", "-euc", script, "box-setup", *packages, log=log)
        if status:
            log.rename(log.with_name("install.log"))
            raise BoxError("tenement did not come up in the box", log.with_name("install.log"))
        log.unlink()


def kill_cgroup(cgroup: Path) -> None:
    """Kill every process in a cgroup and below."""
    with contextlib.suppress(OSError):
        (cgroup / "cgroup.kill").write_text("1")


def remove_cgroup(top: Path) -> None:
    """Kill what is left in a cgroup and remove it with everything below."""
    if not top.is_dir():
        return
    kill_cgroup(top)
    deadline = time.monotonic() + 5
    while "populated 1" in (top / "cgroup.events").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    for directory, _, _ in os.walk(top, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def sweep() -> None:
    """Clear away what runs that were killed outright left behind."""
    for directory in (CACHE / "boxes").glob("*"):
        try:
            with (directory / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_cgroup(cgroup2_root() / f"tenement-{directory.name}")
                shutil.rmtree(directory, ignore_errors=True)
        except OSError:
            continue


@contextlib.contextmanager
def booted_box(layer_name: str = "box") -> Iterator[Box]:
    """Boot a box and install the packages of this tree in it.

    When that fails the box is there all the same: what is wrong can best be found out inside.
    """
    sweep()
    packages = build_packages()
    with Box(f"box-{os.getpid()}", layer_name, packages) as box:
        try:
            box.install()
        except BoxError as error:
            report(error)
        yield box
