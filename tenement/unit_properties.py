"""What systemd is told about a tenant's unit and about the slice of its service. Pure: no I/O.

Each block names what it keeps a tenant from doing. The settings are explained in systemd.exec(5),
systemd.service(5) and systemd.resource-control(5); the names here are those of the D-Bus interface, with
spans of time in microseconds and masks as numbers.
"""

import base64
import ipaddress
import math
import os.path
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tenement.config import Service, fill
from tenement.names import TenantName
from tenement.systemd import Property

PROXY_SOURCE: Final = "127.0.77.1"
"""The address the proxy and the manager connect from; the only one on the loopback that reaches a tenant."""

RESOLVERS: Final = ("127.0.0.53", "127.0.0.54")
"""The stubs of systemd-resolved, where /etc/resolv.conf points on hosts that use it."""

FIRST_PORT: Final = 20000
PORT_COUNT: Final = 12768
"""Tenants' ports end below the ephemeral ports, of which any may be taken by an outgoing connection."""

DATA_ROOT: Final = "/var/lib/tenement"
SOCKET_ROOT: Final = "/run/tenement/sockets"
GATE_ROOT: Final = "/run/tenement/gates"

_UNLIMITED: Final = 2**64 - 1
_MB: Final = 1024 * 1024
_ADDRESS_FAMILIES: Final = ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"]
_IPV4, _IPV6, _TCP, _UDP = 2, 10, 6, 17
# What gives up rights, see _SCOPE. Older versions of systemd have no group for them.
_LANDLOCK_CALLS: Final = ("landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self")
_RISKY_CALLS: Final = ("io_uring_enter", "io_uring_register", "io_uring_setup", "userfaultfd")
_CLOSED: Final = (
    "127.0.0.0/8",
    "::1/128",
    # Link-local, and with it the metadata service of clouds, which hands out the host's credentials.
    "169.254.0.0/16",
    "fe80::/10",
    "224.0.0.0/4",
    "ff00::/8",
)
# What an app may see of /run: the sockets to log to, and the name services. No bus, no other tenant's
# sockets, and not the rest of the journal's directory, which has a file for each unit that logs.
_RUN: Final = (
    "/run/systemd/journal/dev-log",
    "/run/systemd/journal/socket",
    "/run/systemd/journal/stdout",
    "/run/systemd/resolve",
    "/run/systemd/userdb",
)
# `<>` opens the pipe for both ways, so that the gate neither waits for a writer nor sees an end when the
# manager, the writer, restarts. Without a pipe the app is let go at once: systemd restarts it after a crash
# with this command.
_GATE: Final = '[ ! -p "$0" ] || read -r _ <>"$0"; exec "$@"'
# Abstract unix sockets belong to the network, which tenants share with the host: whoever knows a name may
# connect. Landlock (since Linux 6.12) confines a process and its children to those made among themselves;
# systemd has no setting for it, and perl is on every Debian. The numbers of landlock_create_ruleset(2) and
# landlock_restrict_self(2) are the same on all architectures; the third field of the rules is what is scoped,
# bit 0 abstract unix sockets. A kernel that does not know it refuses the first call, see `ten doctor`. 203 is
# systemd's own status for a program that cannot be run.
_SCOPE: Final = (
    'my $rules = pack("QQQ", 0, 0, 1); my $fd = syscall(444, $rules, 24, 0); '
    r'$fd < 0 or syscall(446, $fd, 0) == 0 or die "landlock_restrict_self: $!\n"; '
    r'exec { $ARGV[0] } @ARGV or print STDERR "$ARGV[0]: $!\n"; exit 203'
)
_SCOPED: Final = ("/usr/bin/perl", "-e", _SCOPE)


@dataclass(frozen=True, slots=True)
class Launch:
    """What is particular to one start: its port and release, if any, and whether it waits behind a gate."""

    generation: int
    port: int | None = None
    armed: bool = False
    release: str = ""


def socket_path(name: TenantName) -> str:
    """The unix socket of a tenant: sun_path has 108 bytes, two labels may be 126."""
    return f"{SOCKET_ROOT}/{name.run_directory}/http.sock"


def gate_path(name: TenantName) -> str:
    """The named pipe that holds an armed tenant back."""
    return f"{GATE_ROOT}/{name.run_directory}"


def data_path(name: TenantName) -> str:
    """The tenant's data directory as the app and the operator see it."""
    return f"/var/lib/{name.data_directory}"


def tenant_unit(service: Service, name: TenantName, launch: Launch, systemd_version: int) -> list[Property]:
    """The properties of a tenant's unit, for StartTransientUnit."""
    return [
        *_identity(service, name),
        *_process(service, name, launch),
        *_restarts(service),
        *_limits(service),
        *_listening(service, name),
        *_credentials(service, _placeholders(service, name, launch)),
        *(_sandbox(service, name, launch, systemd_version) if service.isolation == "namespace" else ()),
    ]


def pre_release_unit(
    service: Service, name: TenantName, release: str, systemd_version: int
) -> list[Property]:
    """The properties of the unit that prepares a tenant for a release.

    It is the tenant's own, in its sandbox and with its data, but runs `pre_release` once and ends.
    """
    once = msgspec.structs.replace(service, command=service.pre_release, args=(), restart="no")
    unit = tenant_unit(once, name, Launch(0, release=release), systemd_version)
    others = ("Type", "ExtraFileDescriptors", "RuntimeDirectory", "RuntimeDirectoryMode")
    return [
        *(each for each in unit if each.name not in others),
        Property("Description", "s", f"Tenant {name}, preparing for {release}"),
        Property("Type", "s", "oneshot"),
        Property("TimeoutStartUSec", "t", _usec(service.pre_release_timeout_s)),
    ]


def slice_unit(
    service: Service,
    own_addresses: Iterable[str],
    resolvers: Iterable[str] = (),
) -> list[Property]:
    """The properties of a service's slice: the network rules of all its tenants.

    They are BPF programs, which the kernel verifies for 62 ms when they stand on a unit and once when they
    stand on the slice. `own_addresses` are the host's: an app that listens on one of them could be reached
    past the proxy. `resolvers` are those of RESOLVERS that the host uses. tenement.slice above them has the
    filter of tenement.network_filter, which cannot be set here: systemd takes it when a unit is made only.
    """
    allowed = [*([PROXY_SOURCE] if service.listen == "port" else []), *resolvers]
    return [
        Property("Description", "s", f"Tenants of {service.name}"),
        # For /metrics; on the slice, where it costs nothing per start.
        Property("IOAccounting", "b", True),
        Property("IPAccounting", "b", True),
        *_replaced("IPAddressDeny", "a(iayu)", [_network(text) for text in (*_CLOSED, *own_addresses)]),
        *_replaced("IPAddressAllow", "a(iayu)", [_network(text) for text in allowed]),
        # The same for all services, however they listen: systemd 257 does not apply changes of these two to a
        # slice that is there. Nobody gets through to a port whose app is not asked for one.
        Property("SocketBindDeny", "a(iiqq)", [[0, 0, 0, 0]]),
        # Also of IPv6, though nobody connects there: an app that listens on "::" gets the manager's advice
        # then, and not only EPERM. UDP clients bind too (QUIC, DNS libraries); from outside a UDP port is
        # reached only through the closed list.
        Property("SocketBindAllow", "a(iiqq)", [[0, _TCP, PORT_COUNT, FIRST_PORT], [0, _UDP, 0, 0]]),
    ]


def _replaced(name: str, signature: str, values: list[Any]) -> list[Property]:
    """A list in place of the one that a living unit has: systemd adds to lists, and an empty one clears."""
    found = [Property(name, signature, [])]
    return [*found, Property(name, signature, values)] if values else found


def environment(service: Service, name: TenantName, launch: Launch) -> dict[str, str]:
    """The environment of the app: tenement's own variables, then the service's, placeholders filled in."""
    port = str(launch.port) if launch.port is not None else ""
    own = {
        "DATA_DIR": data_path(name),
        "HOST": "127.0.0.1",
        "INSTANCE_ID": name.id,
        "PORT": port,
        "SERVICE": name.service,
        "SOCKET_PATH": socket_path(name) if service.listen == "socket" else "",
        "TENANT": str(name),
    }
    own = {key: value for key, value in own.items() if value}
    return own | {
        key: fill(value, _placeholders(service, name, launch)) for key, value in service.env.items()
    }


def _placeholders(service: Service, name: TenantName, launch: Launch) -> dict[str, str]:
    return {
        "name": name.service,
        "id": name.id,
        "data_dir": f"{DATA_ROOT}/{name.service}",
        "release": launch.release,
        "port": str(launch.port or ""),
        "socket": socket_path(name) if service.listen == "socket" else "",
    }


def _identity(service: Service, name: TenantName) -> list[Property]:
    return [
        Property("Description", "s", f"Tenant {name}"),
        Property("Slice", "s", name.slice),
        # Without a user of its own, all tenants of a service would run as one and could kill each other.
        Property("DynamicUser", "b", True),
        Property("User", "s", name.user),
        Property("StateDirectory", "as", [name.data_directory]),
        Property("StateDirectoryMode", "u", 0o700),
        Property("UMask", "u", 0o077),
        Property("SyslogIdentifier", "s", service.name),
        Property(
            "LogExtraFields",
            "aay",
            [f"TENANT={name}".encode(), f"TENANT_SERVICE={name.service}".encode()],
        ),
    ]


def _process(service: Service, name: TenantName, launch: Launch) -> list[Property]:
    values = _placeholders(service, name, launch)
    program, *rest = [fill(word, values) for word in (*service.command, *service.args)]
    workdir = fill(service.workdir, values) if service.workdir else data_path(name)
    if "/" in program and not program.startswith("/"):
        program = os.path.normpath(os.path.join(workdir, program))
    command = [program, *rest]
    if launch.armed:
        command = ["/bin/sh", "-c", _GATE, gate_path(name), *command]
    if service.isolation == "namespace":
        command = [*_SCOPED, *command]
    variables = environment(service, name, launch)
    return [
        # A sandbox that cannot be built fails the start at once; "simple" would report success first.
        Property("Type", "s", "exec"),
        # Arguments are the operator's words: systemd would replace $VARIABLES in them.
        Property("ExecStartEx", "a(sasas)", [[command[0], command, ["no-env-expand"]]]),
        Property("WorkingDirectory", "s", workdir),
        Property("Environment", "as", [f"{key}={value}" for key, value in variables.items()]),
        Property("TimeoutStopUSec", "t", _usec(service.stop_timeout_s)),
        Property("NotifyAccess", "s", "none"),
    ]


def _restarts(service: Service) -> list[Property]:
    base_s, most_s = service.backoff_base_ms / 1000, service.backoff_max_ms / 1000
    found = [
        Property("Restart", "s", service.restart),
        Property("RestartUSec", "t", _usec(base_s)),
        Property(
            "StartLimitIntervalUSec", "t", _usec(service.restart_window_s) if service.max_restarts else 0
        ),
        Property("StartLimitBurst", "u", service.max_restarts),
    ]
    if most_s > base_s:
        # systemd spreads the growth over a number of steps; this many double the pause at each.
        found.append(Property("RestartSteps", "u", max(1, math.ceil(math.log2(most_s / base_s)))))
        found.append(Property("RestartMaxDelayUSec", "t", _usec(most_s)))
    return found


def _limits(service: Service) -> list[Property]:
    return [
        Property("MemoryMax", "t", service.memory_limit_mb * _MB or _UNLIMITED),
        Property("MemoryHigh", "t", service.memory_high_mb * _MB or _UNLIMITED),
        Property("CPUWeight", "t", service.cpu_shares),
        Property("CPUQuotaPerSecUSec", "t", service.cpu_quota * 10_000 or _UNLIMITED),
        Property("IOWeight", "t", service.io_weight),
        Property("TasksMax", "t", service.tasks_max),
        # The same once more, for kernels without the pids controller: the user is the tenant's alone.
        Property("LimitNPROC", "t", service.tasks_max),
        Property("LimitNOFILE", "t", service.open_files),
        Property("LimitCORE", "t", 0),
        # A single file that outgrows the quota is stopped by the kernel; the sum is measured, see
        # tenement.manager.storage.
        Property("LimitFSIZE", "t", service.storage_quota_mb * _MB or _UNLIMITED),
    ]


def _listening(service: Service, name: TenantName) -> list[Property]:
    match service.listen:
        case "socket":
            directory = os.path.dirname(socket_path(name)).removeprefix("/run/")
            # Others may pass through the directory, but not list it; the socket's own mode says who may
            # connect.
            return [
                Property("RuntimeDirectory", "as", [directory]),
                Property("RuntimeDirectoryMode", "u", 0o711),
            ]
        case "fd":
            return [Property("ExtraFileDescriptors", "a(hs)", [[0, "http"]])]
        case _:
            return []


def _credentials(service: Service, values: dict[str, str]) -> list[Property]:
    plain, encrypted, inline = [], [], []
    for key, credential in service.credentials.items():
        if credential.path is not None:
            plain.append([key, fill(credential.path, values)])
        elif credential.encrypted_path is not None:
            encrypted.append([key, fill(credential.encrypted_path, values)])
        elif credential.encrypted_value is not None:
            inline.append([key, _decoded(credential.encrypted_value)])
    found = [
        Property("LoadCredential", "a(ss)", plain),
        Property("LoadCredentialEncrypted", "a(ss)", encrypted),
        Property("SetCredentialEncrypted", "a(say)", inline),
    ]
    return [each for each in found if each.value]


def _decoded(text: str) -> bytes:
    """An encrypted credential as it is on the bus: without the Base64 that it has in unit files."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        # systemd will say what it thinks of it.
        return text.encode()


def _sandbox(service: Service, name: TenantName, launch: Launch, systemd_version: int) -> list[Property]:
    bound = [*_RUN, *([gate_path(name)] if launch.armed else [])]
    if systemd_version >= 257:
        # Shows the tenant its own control group only; the plain setting leaves the names of all others to be
        # listed.
        control_groups = Property("ProtectControlGroupsEx", "s", "strict")
    else:
        control_groups = Property("ProtectControlGroups", "b", True)
    return [
        # The file system: read-only, homes and /run hidden, /tmp and /dev of its own.
        Property("ProtectSystem", "s", "strict"),
        # Empty directories in place of homes; "yes" would take 3 ms more to make them inaccessible.
        Property("ProtectHome", "s", "tmpfs"),
        Property("PrivateTmp", "b", True),
        Property("PrivateDevices", "b", True),
        Property("DevicePolicy", "s", "closed"),
        # PrivateDevices= leaves the host's shared memory, with the names that others use in it.
        Property(
            "TemporaryFileSystem",
            "a(ss)",
            [["/run", "ro,mode=0755"], ["/dev/shm", "mode=1777,nosuid,nodev,noexec"]],
        ),
        Property("BindReadOnlyPaths", "a(ssbt)", [[path, path, True, 0] for path in bound]),
        # Other processes, users, IPC and keys: out of sight.
        Property("PrivateUsers", "b", True),
        Property("PrivateIPC", "b", True),
        Property("RemoveIPC", "b", True),
        Property("ProtectProc", "s", "invisible"),
        Property("KeyringMode", "s", "private"),
        # The kernel and the host.
        Property("ProtectKernelTunables", "b", True),
        Property("ProtectKernelModules", "b", True),
        Property("ProtectKernelLogs", "b", True),
        control_groups,
        Property("ProtectClock", "b", True),
        Property("ProtectHostname", "b", True),
        # Privileges: none, and no way to any.
        Property("CapabilityBoundingSet", "t", 0),
        Property("AmbientCapabilities", "t", 0),
        Property("NoNewPrivileges", "b", True),
        Property("RestrictSUIDSGID", "b", True),
        Property("RestrictNamespaces", "t", 0),
        Property("RestrictRealtime", "b", True),
        Property("LockPersonality", "b", True),
        # V8 and other just-in-time compilers need memory that is writable and executable.
        Property("MemoryDenyWriteExecute", "b", service.memory_deny_write_execute),
        # Without "native", each of the three ABIs of x86-64 gets its filter: 13 ms more per start.
        Property("SystemCallArchitectures", "as", ["native"]),
        # Answer EPERM: Node is killed at start otherwise, and so is any app that calls nice(2).
        Property("SystemCallErrorNumber", "i", 1),
        Property("SystemCallFilter", "(bas)", [True, ["@system-service", *_LANDLOCK_CALLS]]),
        # The others are what many attacks on the kernel begin with; apps that would use them do without.
        Property("SystemCallFilter", "(bas)", [False, ["@privileged", "@resources", *_RISKY_CALLS]]),
        # Node asks AF_NETLINK for the network interfaces; AF_VSOCK, the way to the hypervisor, stays closed.
        Property("RestrictAddressFamilies", "(bas)", [True, _ADDRESS_FAMILIES]),
        Property("PrivateNetwork", "b", service.network == "none"),
    ]


def _network(text: str) -> list[object]:
    network = ipaddress.ip_network(text, strict=False)
    family = _IPV4 if network.version == 4 else _IPV6
    return [family, network.network_address.packed, network.prefixlen]


def _usec(seconds: float) -> int:
    return round(seconds * 1_000_000)
