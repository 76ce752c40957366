#!/usr/bin/python3 -IS
"""Everything a tenant should not be able to do, tried one after the other.

    attacks.py [ATTACK...] < TARGETS   tries all of it, or some, here and now, whoever that is

An attack is a function that returns what it got hold of, or raises OSError if it was kept from it. TARGETS is
a JSON object that says where the victims are. The result is a JSON object: for each attack by name what it
got, or null, and the error.
"""

import contextlib
import ctypes
import errno
import glob
import json
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

# What is refused is dropped, not answered: this long does an attack wait for a connection.
PATIENCE_S: Final = 0.7
GREETING: Final = b"here I am\n"
LIBC: Final = ctypes.CDLL(None, use_errno=True)
REFUSED: Final = (errno.EPERM, errno.EACCES, errno.ENOSYS)

Targets = dict[str, Any]
Attack = Callable[[Targets], object]
ATTACKS: dict[str, Attack] = {}


def attack(name: str) -> Callable[[Attack], Attack]:
    """Enter an attack under a name."""

    def enter(function: Attack) -> Attack:
        assert name not in ATTACKS, name
        ATTACKS[name] = function
        return function

    return enter


def call(number: int, *arguments: object) -> str:
    """Make a system call with arguments that it cannot use: it works if the kernel looks at them at all."""
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    if LIBC.syscall(ctypes.c_long(number), *given) < 0:
        number = ctypes.get_errno()
        if number in REFUSED:
            raise OSError(number, os.strerror(number))
        return f"the kernel considered it ({errno.errorcode[number]})"
    return "done"


def each(names: list[Any], do: Callable[[Any], object]) -> object:
    """Try the same on several; the first that works counts."""
    last: OSError = OSError(errno.ENOENT, "nothing to try it on")
    for name in names:
        try:
            found = do(name)
        except OSError as error:
            last = error
            continue
        if found:
            return f"{name}: {found}"
    raise last


def read(path: str) -> str:
    with open(path, "rb") as file:
        return file.read(200).decode(errors="replace") or "(empty)"


def write(path: str) -> str:
    """Make a file, and remove it again."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.close(fd)
    os.unlink(path)
    return "written"


def open_for_writing(path: str) -> str:
    os.close(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
    return "open"


def greeted(connection: socket.socket) -> str:
    """What is at the other end; a connection alone counts as well."""
    with contextlib.suppress(OSError):
        return connection.recv(100).decode(errors="replace") or "connected"
    return "connected"


def tcp(address: str, port: int, source: tuple[str, int] | None = None, protocol: int = 0) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, protocol) as connection:
        connection.settimeout(PATIENCE_S)
        if source:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            connection.bind(source)
        connection.connect((address, port))
        return greeted(connection)


def udp(address: str, port: int) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as connection:
        connection.settimeout(PATIENCE_S)
        connection.sendto(b"?", (address, port))
        return connection.recv(100).decode()


def unix(path: str, kind: int = socket.SOCK_STREAM) -> str:
    with socket.socket(socket.AF_UNIX, kind) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(path)
        return "connected"


# Another tenant's data, environment, memory, logs, temporary files


@attack("read another tenant's file")
def _(to: Targets) -> object:
    return each(to["data_files"], read)


@attack("list other tenants' data directories")
def _(to: Targets) -> object:
    return each(
        ["/var/lib/private/tenement/hostile", "/var/lib/tenement/hostile"],
        lambda path: [name for name in os.listdir(path) if name == to["victim_id"]],
    )


@attack("write to another tenant's directory")
def _(to: Targets) -> object:
    return each([f"{os.path.dirname(path)}/planted" for path in to["data_files"]], write)


@attack("read another tenant's environment")
def _(to: Targets) -> object:
    return read(f"/proc/{to['pid']}/environ")


@attack("read another tenant's command line")
def _(to: Targets) -> object:
    return read(f"/proc/{to['pid']}/cmdline")


@attack("enter another tenant's file system through /proc")
def _(to: Targets) -> object:
    return each(["root", "cwd"], lambda name: os.listdir(f"/proc/{to['pid']}/{name}/"))


@attack("read another tenant's memory through /proc")
def _(to: Targets) -> object:
    fd = os.open(f"/proc/{to['pid']}/mem", os.O_RDONLY)
    os.close(fd)
    return "open"


@attack("read another tenant's memory with process_vm_readv")
def _(to: Targets) -> object:
    buffer = ctypes.create_string_buffer(16)
    here = struct.pack("=QQ", ctypes.addressof(buffer), 16)
    there = struct.pack("=QQ", 0x400000, 16)
    return call(310, to["pid"], here, 1, there, 1, 0)


@attack("trace another tenant's process")
def _(to: Targets) -> object:
    result = call(101, 0x4206, to["pid"], 0, 0)
    call(101, 17, to["pid"], 0, 0)
    return result


@attack("list other tenants' processes")
def _(to: Targets) -> object:
    return [pid for pid in os.listdir("/proc") if pid == str(to["pid"])]


@attack("see other tenants' control groups")
def _(to: Targets) -> object:
    return [path for path in glob.glob("/sys/fs/cgroup/**/", recursive=True) if to["victim_id"] in path]


@attack("signal another tenant")
def _(to: Targets) -> object:
    os.kill(to["pid"], 0)
    return "it would have been killed"


@attack("signal another tenant through a pidfd")
def _(to: Targets) -> object:
    fd = os.pidfd_open(to["pid"])
    try:
        signal.pidfd_send_signal(fd, 0)
    finally:
        os.close(fd)
    return "it would have been killed"


@attack("signal PID 1")
def _(to: Targets) -> object:
    os.kill(1, 0)
    return "may"


@attack("take another tenant's open files")
def _(to: Targets) -> object:
    pidfd = os.pidfd_open(to["pid"])
    try:
        return call(438, pidfd, 0, 0)
    finally:
        os.close(pidfd)


@attack("find another tenant's temporary files")
def _(to: Targets) -> object:
    found = [
        path
        for place in ("/tmp", "/var/tmp", "/dev/shm")
        for path in glob.glob(f"{place}/**", recursive=True)
        if to["victim_id"] in path
    ]
    return found


@attack("read other tenants' logs from files")
def _(to: Targets) -> object:
    places = glob.glob("/var/log/journal/*/*.journal") + glob.glob("/run/log/journal/*/*.journal")
    return each(places or ["/run/log/journal"], lambda path: read(path) and "open")


@attack("read other tenants' logs with journalctl")
def _(to: Targets) -> object:
    command = ["/usr/bin/journalctl", "-q", "-n", "1", "-t", "hostile", "--no-pager"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout


@attack("ask the log reader")
def _(to: Targets) -> object:
    return unix("/run/tenement-log-reader.sock")


# Other tenants and the host over the network


def _connections() -> None:
    """Enter an attack for each way to each listener that is not a tenant's business."""
    ranged = ("127.0.77.1", 32001)
    ways = {
        "another tenant's port": ("victim_port", ["127.0.0.1"]),
        "another tenant's port over IPv4 in IPv6": ("victim_port", ["::ffff:127.0.0.1"]),
        "another tenant's port at address 0": ("victim_port", ["0.0.0.0"]),
        "a service of the host on 127.0.0.1": ("loopback_port", ["127.0.0.1"]),
        "a service of the host on ::1": ("loopback6_port", ["::1"]),
        "a service of the host on all addresses": (
            "any_port",
            ["127.0.0.1", "127.1.2.3", "0.0.0.0", "::1", "::ffff:127.0.0.1"],
        ),
        "a service of the host at the proxy's address": ("any_port", ["127.0.77.1", "::ffff:127.0.77.1"]),
        "a service of the host at the resolver's addresses": ("any_port", ["127.0.0.53", "127.0.0.54"]),
        "a service of the host at its public address": ("any_port", ["192.0.2.1", "::ffff:192.0.2.1"]),
        "a service of the host at its public IPv6 address": ("any_port", ["2001:db8::1"]),
        "the proxy at its own address": ("http_port", ["127.0.77.1"]),
        "the metadata service of the cloud": ("metadata_port", ["169.254.169.254"]),
    }
    for name, (port, addresses) in ways.items():
        for address in addresses:
            where = f" ({address})" if len(addresses) > 1 else ""

            def plainly(to: Targets, address: str = address, port: str = port) -> object:
                return tcp(address, to[port])

            attack(f"connect to {name}{where}")(plainly)
    for name in ("another tenant's port", "a service of the host on 127.0.0.1"):
        for source in (("127.0.77.1", 0), ranged):

            def disguised(to: Targets, port: str = ways[name][0], source: tuple[str, int] = source) -> object:
                return tcp("127.0.0.1", to[port], source)

            place = "a tenant's port" if source[1] else "any port"
            attack(f"connect to {name} from the proxy's address, {place}")(disguised)


_connections()


@attack("connect to a service of the host at the proxy's address from a tenant's port")
def _(to: Targets) -> object:
    return tcp("127.0.77.1", to["any_port"], ("127.0.77.1", 32002))


@attack("connect to a service of the host at the proxy's address by TCP Fast Open")
def _(to: Targets) -> object:
    with socket.socket() as connection:
        connection.settimeout(PATIENCE_S)
        with contextlib.suppress(BlockingIOError):
            connection.sendto(b"?", socket.MSG_FASTOPEN, ("127.0.77.1", to["any_port"]))
        return connection.recv(100).decode()


@attack("connect to a service of the host at the proxy's address by multipath TCP")
def _(to: Targets) -> object:
    return tcp("127.0.77.1", to["any_port"], protocol=262)


for _address in ("127.0.0.1", "127.0.77.1", "127.0.0.53", "192.0.2.1", "::1", "2001:db8::1"):

    @attack(f"ask a service of the host over UDP ({_address})")
    def _(to: Targets, address: str = _address) -> object:
        return udp(address, to["udp_port"])


for _kind in ("socket", "fd"):

    @attack(f"connect to another tenant's unix socket (listen = {_kind})")
    def _(to: Targets, kind: str = _kind) -> object:
        return unix(to[f"{kind}_path"])


@attack("connect to another tenant's abstract socket")
def _(to: Targets) -> object:
    return unix(f"\0{to['victim_abstract']}")


@attack("connect to an abstract socket of the host")
def _(to: Targets) -> object:
    return unix("\0host-service")


@attack("send to an abstract datagram socket of the host")
def _(to: Targets) -> object:
    return unix("\0host-service-datagram", socket.SOCK_DGRAM)


@attack("connect to a socket of the host that everybody may use")
def _(to: Targets) -> object:
    return unix("/run/host-service.sock")


@attack("connect to the system bus")
def _(to: Targets) -> object:
    return unix("/run/dbus/system_bus_socket")


@attack("connect to PID 1")
def _(to: Targets) -> object:
    return each(["/run/systemd/private", "/run/systemd/io.systemd.ManagedOOM"], unix)


@attack("notify PID 1")
def _(to: Targets) -> object:
    return unix("/run/systemd/notify", socket.SOCK_DGRAM)


@attack("connect to the HTTP API past the proxy")
def _(to: Targets) -> object:
    return unix("/run/tenement-api/http.sock")


@attack("bind the proxy's address")
def _(to: Targets) -> object:
    with socket.socket() as listener:
        listener.bind(("127.0.77.1", 0))
    return "bound"


@attack("listen on a port that is not for tenants")
def _(to: Targets) -> object:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 8081))
    return "bound"


for _family, _number in (("vsock", 40), ("packet", 17)):

    @attack(f"make a socket of family {_family}")
    def _(to: Targets, number: int = _number) -> object:
        try:
            socket.socket(number, socket.SOCK_RAW if number == 17 else socket.SOCK_STREAM).close()
        except OSError as error:
            # The filter of systemd says EAFNOSUPPORT; what the kernel has says something else.
            if error.errno in (errno.EAFNOSUPPORT, *REFUSED):
                raise
            return f"the kernel considered it ({error})"
        return "made"


@attack("make a raw socket")
def _(to: Targets) -> object:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return "made"


@attack("give the host another address")
def _(to: Targets) -> object:
    address = socket.inet_aton("127.9.9.9")
    body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 1)
    body += struct.pack("=HH4s", 8, 2, address) + struct.pack("=HH4s", 8, 1, address)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        for kind, flags in ((20, 0x405), (21, 0x5)):
            kernel.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
            number = struct.unpack_from("=i", kernel.recv(1000), 16)[0]
            if number:
                raise OSError(-number, os.strerror(-number))
    return "given, and taken away again"


# The host's files and secrets

for _name, _path in {
    "the registry": "/var/lib/tenement-manager/registry.db",
    "the configuration": "/etc/tenement/tenement.toml",
    "certificates' keys": "/var/lib/tenement-tls/hostile-test.key",
    "password hashes": "/etc/shadow",
    "root's files": "/root/hostile-test",
    "users' files": "/home/hostile-test",
    "another tenant's credentials": "/run/credentials/VICTIM/token",
    "the kernel's memory": "/proc/kcore",
    "the kernel's log device": "/dev/kmsg",
}.items():

    @attack(f"read {_name}")
    def _(to: Targets, path: str = _path) -> object:
        fd = os.open(path.replace("VICTIM", to["victim_unit"]), os.O_RDONLY | os.O_NONBLOCK)
        os.close(fd)
        return "open"


for _place in (
    "/",
    "/etc",
    "/usr/bin",
    "/srv",
    "/var",
    "/var/lib",
    "/run",
    "/opt",
    "/boot",
    "/sys/fs/cgroup",
):

    @attack(f"write to {_place}")
    def _(to: Targets, place: str = _place) -> object:
        if place == "/sys/fs/cgroup":
            os.mkdir(f"{place}/hostile-test")
            os.rmdir(f"{place}/hostile-test")
            return "written"
        return write(f"{place}/hostile-test-{os.getpid()}")


for _path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/1/oom_score_adj"):

    @attack(f"write to {_path}")
    def _(to: Targets, path: str = _path) -> object:
        return open_for_writing(path)


@attack("lift the limits of its control group")
def _(to: Targets) -> object:
    group = Path("/proc/self/cgroup").read_text().split("0::", 1)[1].splitlines()[0]
    groups = ["/sys/fs/cgroup/cgroup.max.depth", f"/sys/fs/cgroup{group}/cgroup.max.depth"]
    return each(groups, open_for_writing)


# Privileges and the kernel

_CLONE: Final = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "network": 0x40000000,
    "process": 0x20000000,
    "IPC": 0x08000000,
    "host name": 0x04000000,
    "control group": 0x02000000,
}
# Numbers of system calls on x86-64, with arguments that do no harm to whoever may make them.
_CALLS: Final = {
    "set the clock": (227, 999, 0),
    "adjust the clock": (305, 999, 0),
    "load a module": (313, -1, b"", 0),
    "remove a module": (176, b"hostile-test", 0),
    "load another kernel": (246, 0, 0, 0, -1),
    "reboot": (169, 0, 0, 0, 0),
    "swap to a file": (167, b"/nonexistent", 0),
    "read the kernel's log": (103, 10, 0, 0),
    "mount a file system": (165, b"none", b"/nonexistent", b"tmpfs", 0, 0),
    "unmount a file system": (166, b"/nonexistent", 0),
    "open a tree of mounts": (428, -1, b"/nonexistent", 0),
    "change the root directory": (161, b"/nonexistent"),
    "switch the root file system": (155, b"/nonexistent", b"/nonexistent"),
    "load a BPF program": (321, 0, 0, 0),
    "watch the processor's counters": (298, 0, 0, 0, -1, 0),
    "open a file by its handle": (304, -1, 0, 0),
    "account processes": (163, b"/nonexistent"),
    "set disk quotas": (179, 0, 0, 0, 0),
    "handle page faults": (323, 0xFFFF),
    "queue work in the kernel (io_uring)": (425, 0, 0),
    "use the processor's ports": (173, 0x80, 1, 2),
    "rename the host": (170, b"x", 100),
    "set the host's domain": (171, b"x", 100),
    "compare other processes' memory": (312, 1, 1, 99, 0, 0),
    "move memory of other processes": (256, 1, 0, 0, 0),
}

for _name, _call in _CALLS.items():

    @attack(_name)
    def _(to: Targets, made: tuple[Any, ...] = _call) -> object:
        return call(*made)


for _name, _flag in _CLONE.items():

    @attack(f"make a {_name} namespace")
    def _(to: Targets, flag: int = _flag) -> object:
        return in_child(lambda: call(272, flag))


@attack("enter PID 1's namespaces")
def _(to: Targets) -> object:
    fd = os.open("/proc/1/ns/mnt", os.O_RDONLY)
    os.close(fd)
    return "open"


@attack("become root")
def _(to: Targets) -> object:
    return in_child(lambda: os.setresuid(0, 0, 0) or "root")


@attack("become another tenant's user")
def _(to: Targets) -> object:
    return in_child(lambda: os.setresuid(to["uid"], to["uid"], to["uid"]) or "another")


@attack("keep capabilities")
def _(to: Targets) -> object:
    status = Path("/proc/self/status").read_text()
    sets = [line for line in status.splitlines() if line.startswith("Cap") and int(line.split()[1], 16)]
    return sets


@attack("run programs with their owner's rights")
def _(to: Targets) -> object:
    return LIBC.prctl(39, 0, 0, 0, 0) == 0 and "no_new_privs is off"


@attack("make a program that runs with its owner's rights")
def _(to: Targets) -> object:
    path = Path(os.environ.get("DATA_DIR", "/tmp")) / "setuid-test"
    path.touch()
    try:
        path.chmod(0o4755)
        return "made"
    finally:
        path.unlink()


@attack("make a device")
def _(to: Targets) -> object:
    path = Path(os.environ.get("DATA_DIR", "/tmp")) / "device-test"
    os.mknod(path, 0o20600, os.makedev(1, 1))
    path.unlink()
    return "made"


@attack("raise its limit of open files")
def _(to: Targets) -> object:
    def raise_limit() -> str:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1] + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return "raised"

    return in_child(raise_limit)


@attack("take precedence over others")
def _(to: Targets) -> object:
    return in_child(lambda: os.setpriority(os.PRIO_PROCESS, 0, -10) or "first")


@attack("run in real time")
def _(to: Targets) -> object:
    param = os.sched_param(1)
    return in_child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, param) or "in real time")


@attack("make system calls of another architecture")
def _(to: Targets) -> object:
    """int 0x80 is the door of 32-bit programs; the filter of "native" kills or refuses it."""
    return in_child(_int80)


def _int80() -> str:
    # mov eax, 20 (getpid); int 0x80; ret
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    result = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return f"pid {result}"


def in_child(do: Callable[[], object]) -> object:
    """Do what changes a process in a child of its own; a child that was killed was refused."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, b"+" + str(do()).encode())
        except OSError as error:
            os.write(writer, str(error.errno).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read()
    os.waitpid(child, 0)
    if said.startswith(b"+"):
        return said[1:].decode()
    number = int(said or errno.EPERM)
    raise OSError(number, os.strerror(number))


# Starving others


@attack("fork without end")
def _(to: Targets) -> object:
    """Up to 300 processes; the limit of this service is far lower."""
    children = []
    try:
        while len(children) < 300:
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
        return f"{len(children)} processes"
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@attack("open sockets without end")
def _(to: Targets) -> object:
    """Up to 2,000 sockets; the limit of this service is far lower."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < 2000:
            sockets.append(socket.socket())
        return f"{len(sockets)} sockets"
    finally:
        for opened in sockets:
            opened.close()


ALONE: Final = ("fork without end", "open sockets without end")


def run(targets: Targets, chosen: list[str] | None = None) -> dict[str, list[str | None]]:
    """Try the attacks, most at once; for each what it got, or None, and the error."""

    def attempt(name: str) -> tuple[str, list[str | None]]:
        try:
            got = ATTACKS[name](targets)
        except OSError as error:
            return name, [None, f"{type(error).__name__}: {error}"]
        return name, [str(got), None] if got else [None, "found nothing"]

    names = [name for name in ATTACKS if chosen is None or name in chosen]
    with ThreadPoolExecutor(16) as pool:
        results = dict(pool.map(attempt, (name for name in names if name not in ALONE)))
    results.update(attempt(name) for name in names if name in ALONE)
    return {name: results[name] for name in names}


if __name__ == "__main__":
    print(json.dumps(run(json.load(sys.stdin), sys.argv[1:] or None)))
