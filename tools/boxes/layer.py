"""Cached layers of file systems, and mounting them."""

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from boxes import CACHE, PATH_IN_BOX, RELEASE, SOURCE
from boxes.apt import apt_in_root, machine_sources, proxy_environment, require_tools
from boxes.process import BoxError, locked, run_logged, say

# What a bare server has that debootstrap's minimal variant lacks. libnss-myhostname resolves *.localhost for
# every program; curl is what people try things with.
SERVER_PACKAGES = (
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "libnss-myhostname",
    "libnss-systemd",
    "procps",
    "python3",
    "systemd",
    "systemd-sysv",
)
# Runtimes and servers that tenants, and tests of them, use inside the box.
APP_PACKAGES = ("nodejs", "openssl", "pebble")
# An ACME server needs a name server to ask, and a plugin that writes to it; sslscan looks at the result.
TLS_PACKAGES = ("knot", "python3-certbot-dns-rfc2136", "sslscan")
# Most servers have no polkit; it is there for the tests that unmask it.
POLICY_PACKAGES = ("polkitd",)
# Tests run these themselves.
MASKED = ("knot.service", "polkit.service")
TEST_PACKAGES = (
    "build-essential",
    "curl",
    "fakeroot",
    "git",
    "lintian",
    "make",
    "python3-h11",
    "python3-hypothesis",
    "python3-pip",
    "python3-pytest",
    "python3-venv",
    "strace",
)
# A real browser, and promtool, for tests of what people and Prometheus see. Large, and for `make test` only.
BROWSER_PACKAGES = ("chromium", "fonts-dejavu-core", "prometheus")
# Clients that others wrote: each has its own idea of HTTP. ab speaks HTTP/1.0, hey is Go's net/http.
CLIENT_PACKAGES = (
    "apache2-utils", "hey", "node-ws", "python3-httpx", "python3-requests", "python3-websockets"
)  # fmt: skip
# Runs Autobahn's WebSocket cases.
CONFORMANCE = ("kosoku==0.1.0",)
# Playwright's wheel drives Debian's Chromium; the second one carries axe-core.
BROWSER_DRIVERS = ("axe-playwright-python==0.1.8", "playwright==1.65.2")
# In an environment of its own: it brings another pytest and hypothesis.
API_FUZZER = ("schemathesis==4.32.5",)
BENCH_PACKAGES = ("gcc", "haproxy", "libc6-dev", "nginx", "python3-pip", "python3-venv", "wrk")
BENCH_PEERS = ("tenement==0.2.2",)
# Only promtool is wanted of it.
BROWSER_MASKED = ("prometheus.service", "prometheus-node-exporter.service")
# Benchmarks run these themselves; as services they would take the ports.
BENCH_MASKED = ("haproxy.service", "nginx.service")

# Changing how layers are built, and not only what is in them, needs new ones: count up.
LAYER_FORMAT = 1
KEEP_LAYER_S = 7 * 86400.0


def control_packages(*names: str) -> tuple[str, ...]:
    """Read the package names, first alternatives, in fields of debian/control, but for our own."""
    text = (SOURCE / "debian" / "control").read_text()
    ours = re.findall(r"^Package: (.*)", text, re.MULTILINE)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    found = []
    for name in names:
        for match in re.finditer(rf"^{name}:((?:.*\n)(?: .*\n)*)", text + "\n", re.MULTILINE):
            for entry in match[1].split(","):
                package = entry.split("|")[0].split("(")[0].strip()
                if package and not package.startswith("${") and package not in ours:
                    found.append("debhelper" if package == "debhelper-compat" else package)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Layer:
    """A cached part of a file system; `parent` lies below it.

    `python` maps the path of a virtual environment to the packages in it; `masked` services never start.
    """

    name: str
    packages: tuple[str, ...]
    parent: "Layer | None" = None
    python: dict[str, tuple[str, ...]] = field(default_factory=dict)
    masked: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Hash of everything that decides what is in the layer."""
        parts = [str(LAYER_FORMAT), RELEASE, self.name, *sorted(self.packages), json.dumps(self.python)]
        parts += self.masked
        parts.append(self.parent.key if self.parent else "")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]

    @property
    def path(self) -> Path:
        """Where the layer lies once it is built."""
        return CACHE / "layers" / f"{self.name}-{self.key}"

    @property
    def last_used(self) -> Path:
        """An empty file whose time tells when the layer was last wanted."""
        return self.path.with_suffix(".used")

    @property
    def stack(self) -> list[Path]:
        """This layer and those below, top first: overlayfs's order."""
        return [self.path, *(self.parent.stack if self.parent else [])]


def requirements() -> tuple[str, ...]:
    """Read the pinned Python tools that Debian does not ship in the version wanted."""
    lines = (SOURCE / "tools" / "requirements.txt").read_text().splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def layer(name: str) -> Layer:
    """Describe the layer `box`, `test`, `browser` (on top of `test`) or `bench`."""
    runtime = control_packages("Depends", "Recommends")
    server = (*SERVER_PACKAGES, *APP_PACKAGES, *POLICY_PACKAGES, *TLS_PACKAGES, *runtime)
    base = Layer("box", server, masked=MASKED)
    if name in ("test", "browser"):
        test = Layer(
            "test", (*TEST_PACKAGES, *control_packages("Build-Depends")), base, {"/opt/lint": requirements()}
        )
        if name == "test":
            return test
        packages = (*BROWSER_PACKAGES, *CLIENT_PACKAGES)
        python = {
            "/opt/browser": BROWSER_DRIVERS, "/opt/conformance": CONFORMANCE, "/opt/fuzzer": API_FUZZER
        }  # fmt: skip
        return Layer("browser", packages, test, python, BROWSER_MASKED)
    if name == "bench":
        return Layer("bench", BENCH_PACKAGES, base, {"/opt/rust-peer": BENCH_PEERS}, BENCH_MASKED)
    return base


def mount(*arguments: str | Path) -> None:
    """Run mount(8)."""
    result = subprocess.run(["mount", *map(str, arguments)], stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise BoxError(f"mount {shlex.join(map(str, arguments))}: {result.stderr.strip()}")


def unmount(path: Path) -> None:
    """Unmount everything at and below `path`, lazily; silent if nothing is."""
    subprocess.run(["umount", "-R", "-l", str(path)], stderr=subprocess.DEVNULL, check=False)


@contextlib.contextmanager
def overlay(lower: Sequence[Path], upper: Path, work: Path, target: Path) -> Iterator[Path]:
    """Mount an overlay of `lower` (top first) with writes going to `upper`."""
    for directory in (upper, work, target):
        directory.mkdir(parents=True, exist_ok=True)
    stack = ":".join(map(str, lower))
    mount("-t", "overlay", "overlay", "-o", f"lowerdir={stack},upperdir={upper},workdir={work}", target)
    try:
        yield target
    finally:
        unmount(target)


def ensure(wanted: Layer) -> None:
    """Build the layer, and those below it, unless they exist."""
    if wanted.parent:
        ensure(wanted.parent)
    require_tools()
    wanted.last_used.touch()
    if wanted.path.is_dir():
        return
    with locked(CACHE / "layers" / f"{wanted.name}.lock"):
        if wanted.path.is_dir():
            return
        started = time.monotonic()
        say(f"preparing the layer '{wanted.name}' (once, one to two minutes)")
        log = CACHE / "log" / f"layer-{wanted.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        with tempfile.TemporaryDirectory(prefix="building-", dir=CACHE / "layers") as scratch:
            build_layer(wanted, Path(scratch), log)
        say(f"the layer '{wanted.name}' took {time.monotonic() - started:.0f} s")
        forget_old_layers(wanted.name)


def forget_old_layers(name: str) -> None:
    """Delete the layers of this name that nothing has used for a week; no box runs that long."""
    for last_used in (CACHE / "layers").glob(f"{name}-*.used"):
        if last_used.stat().st_mtime < time.time() - KEEP_LAYER_S:
            shutil.rmtree(last_used.with_suffix(""), ignore_errors=True)
            last_used.unlink()


def build_layer(wanted: Layer, scratch: Path, log: Path) -> None:
    """Build one layer in `scratch` and rename it into place."""
    upper = scratch / "upper"
    if wanted.parent is None:
        bootstrap(upper, log)
        with chroot_mounts(upper):
            fill(wanted, upper, scratch, log)
    else:
        with (
            overlay(wanted.parent.stack, upper, scratch / "work", scratch / "root") as root,
            chroot_mounts(root),
        ):
            fill(wanted, root, scratch, log)
    upper.rename(wanted.path)


def bootstrap(root: Path, log: Path) -> None:
    """Lay down a minimal Debian in `root`."""
    source = next(source for source in machine_sources() if RELEASE in source.suites)
    command = ["debootstrap", "--variant=minbase"]
    if source.keyring and Path(source.keyring).is_file() and not source.keyring.endswith(".asc"):
        command.append(f"--keyring={source.keyring}")
    run_logged([*command, RELEASE, str(root), source.uri], log, env=proxy_environment())


@contextlib.contextmanager
def chroot_mounts(root: Path) -> Iterator[None]:
    """Give a chroot the kernel's file systems that maintainer scripts and tools expect."""
    mount("-t", "proc", "proc", root / "proc")
    mount("--rbind", "/sys", root / "sys")
    mount("-t", "tmpfs", "tmpfs", root / "run")
    try:
        yield
    finally:
        for name in ("run", "sys", "proc"):
            unmount(root / name)


def fill(wanted: Layer, root: Path, scratch: Path, log: Path) -> None:
    """Install the layer's packages into `root` and leave no trace of this machine in it."""
    for service in wanted.masked:
        (root / "etc" / "systemd" / "system" / service).symlink_to("/dev/null")
    install = ["install", "-y", "--no-install-recommends", *wanted.packages]
    apt_in_root(root, scratch, log, ["update"], install, ["clean"])
    for target, packages in wanted.python.items():
        install_python(root, target, packages, log)
    for pattern in ("var/lib/apt/lists/*", "var/cache/apt/*.bin", "var/log/*.log", "var/log/apt/*"):
        for path in root.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    if wanted.parent is None:
        # Empty, not absent: each box makes up its own, and no boot counts as the first of an image.
        (root / "etc" / "machine-id").write_text("")
        (root / "etc" / "hostname").write_text("box\n")
        (root / "etc" / "hosts").write_text("127.0.0.1 localhost box\n::1 localhost\n")
        (root / "etc" / "resolv.conf").unlink(missing_ok=True)
        (root / "etc" / "resolv.conf").write_text("")
        (root / "etc" / "apt" / "sources.list").write_text("")
        (root / "etc" / "dpkg" / "dpkg.cfg.d" / "box").write_text("force-unsafe-io\n")


def install_python(root: Path, target: str, packages: Sequence[str], log: Path) -> None:
    """Make a virtual environment inside `root`, by pip as this machine is configured to use it."""
    visible = [
        Path(path)
        for path in (
            "/etc/pip.conf",
            os.path.expanduser("~/.config/pip"),
            os.path.expanduser("~/.pip"),
            "/etc/resolv.conf",
            "/etc/ssl/certs",
            "/usr/local/share/ca-certificates",
            "/usr/share/ca-certificates",
        )
        if Path(path).exists()
    ]
    environment = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
    environment |= {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
    environment |= {"HOME": os.path.expanduser("~"), "LC_ALL": "C.UTF-8", "PATH": PATH_IN_BOX}
    made: list[Path] = []
    try:
        for path in visible:
            inside = root / str(path).lstrip("/")
            if not inside.exists():
                made.append(inside)
                inside.parent.mkdir(parents=True, exist_ok=True)
                if path.is_dir():
                    inside.mkdir()
                else:
                    inside.touch()
            mount("--bind", path, inside)
        chroot = ["chroot", str(root)]
        run_logged([*chroot, "python3", "-m", "venv", "--system-site-packages", target], log, env=environment)
        run_logged(
            [*chroot, f"{target}/bin/pip", "install", "--no-cache-dir", "-q", *packages], log, env=environment
        )
    finally:
        for path in visible:
            unmount(root / str(path).lstrip("/"))
        for path in made:
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
