"""The operations on tenants' units, as the state machine asks for them: each is one coroutine that ends in
success or in an exception of this module, and that may be cancelled at any point because the stop that
follows cleans up all of it.
"""

import asyncio
import os
import shutil
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenement.config import Service
from tenement.errors import Overloaded, TenementError
from tenement.manager import listeners
from tenement.manager.cgroup_moves import CgroupMoves
from tenement.manager.directories import hide_names
from tenement.manager.network import slice_properties
from tenement.manager.ports import Ports
from tenement.manager.readiness import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    PAUSE_GROWTH,
    NotReady,
    Probe,
    wait_until_ready,
)
from tenement.manager.verdict import Facts
from tenement.names import TenantName, service_slice
from tenement.systemd import SERVICE, Systemd, SystemdError
from tenement.unit_properties import (
    GATE_ROOT,
    SOCKET_ROOT,
    Launch,
    data_path,
    gate_path,
    socket_path,
    tenant_unit,
)

_JOB_MARGIN_S: Final = 15.0
_BACKLOG: Final = 1024
# PID 1 watches the caller of each job, with a match rule for each; the bus allows it 512.
_STOPS_MAX: Final = 256
_GROUP_MAY_CONNECT: Final = 0o660
_THAWING_S: Final = 0.01


class UnitFailed(TenementError):
    """The unit could not be started, or is not what it should be."""


class UnitTimeout(TenementError):
    """The app was not ready in time."""


class UnitDied(TenementError):
    """systemd reported the start as failed; what happened to the unit is told by its properties."""


@dataclass(slots=True)
class Instance:
    """One start of a tenant: what was made for it, until it is cleaned up."""

    name: TenantName
    service: Service
    launch: Launch
    host: str
    gate: int | None = None

    @property
    def address(self) -> str:
        """Where the app is reached."""
        if self.service.listen == "port":
            return f"127.0.0.1:{self.launch.port}"
        return f"unix:{socket_path(self.name)}"

    @property
    def probe(self) -> Probe:
        """How to ask whether it is ready."""
        return Probe(self.address, self.service.health, self.host)


class Units:
    """Starts, arms, freezes and stops tenants' units. Group `proxy_gid` may connect to their sockets."""

    def __init__(
        self, systemd: Systemd, version: int, proxy_gid: int, own_addresses: Callable[[], list[str]]
    ) -> None:
        self._systemd = systemd
        self._version = version
        self._proxy_gid = proxy_gid
        self._own_addresses = own_addresses
        self._slices: dict[str, asyncio.Task[None]] = {}
        self._thawed: set[TenantName] = set()
        self._stops = asyncio.Semaphore(_STOPS_MAX)
        self._moves = CgroupMoves()
        self.ports = Ports()

    def close(self) -> None:
        """Operate on no unit any more."""
        self._moves.close()

    def prepare_directories(self) -> None:
        """Make the run directories. Raises OSError."""
        for path, mode in ((GATE_ROOT, 0o700), (SOCKET_ROOT, 0o711)):
            Path(path).mkdir(mode=mode, parents=True, exist_ok=True)
            os.chmod(path, mode)

    def instance(
        self,
        name: TenantName,
        service: Service,
        generation: int,
        host: str,
        *,
        armed: bool,
        release: str = "",
    ) -> Instance:
        """What one start needs: a port, if the app listens on one. Raises Overloaded when all are taken."""
        port = None
        if service.listen == "port":
            port = self._free_port()
            if port is None:
                raise Overloaded(f"{name}: all ports for tenants are in use", tenant=str(name))
        return Instance(name, service, Launch(generation, port, armed, release), host)

    async def start(self, instance: Instance, facts: Facts) -> None:
        """Build the unit and wait until the app is ready. Raises UnitFailed, UnitTimeout, UnitDied."""
        self._moves.expect()
        await self._job_done(await self._launch(instance), instance)
        # The app is exec'ed now: before that there was nothing to ask.
        if instance.service.listen == "fd" and instance.service.health is None:
            # The kernel queues requests on its socket.
            return
        await self.watch(instance, facts)

    async def arm(self, instance: Instance) -> None:
        """Build the unit behind its gate. Raises UnitFailed, UnitTimeout, UnitDied."""
        path = gate_path(instance.name)
        with suppress(FileNotFoundError):
            os.unlink(path)
        os.mkfifo(path)
        # Only this tenant sees its gate, in a directory closed to others. It opens it for writing too, see
        # _GATE.
        os.chmod(path, 0o666)
        job = await self._launch(instance)
        await self._job_done(job, instance)

    async def fire(self, instance: Instance, facts: Facts) -> None:
        """Open the gate of an armed unit, and wait until the app is ready. Raises UnitFailed, UnitTimeout."""
        path = gate_path(instance.name)
        try:
            instance.gate = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise UnitFailed(f"the gate {path} is gone ({error.strerror})") from error
        os.write(instance.gate, b"\n")
        # From now on the missing gate tells that this unit is not armed any more.
        os.unlink(path)
        if instance.service.listen == "fd" and instance.service.health is None:
            return
        await self.watch(instance, facts)

    async def watch(self, instance: Instance, facts: Facts) -> None:
        """Wait until the app is ready, and look at who listens. Raises UnitFailed, UnitTimeout."""
        timeout_s = instance.service.startup_timeout_s
        if instance.service.listen == "socket":
            timeout_s = await self._open_socket(instance, timeout_s)
        try:
            await wait_until_ready(instance.probe, timeout_s)
        except NotReady as error:
            raise UnitTimeout(str(error)) from error
        if instance.launch.port is not None:
            self._check_listeners(instance.launch.port, await self._uid(instance.name, facts))

    async def freeze(self, name: TenantName) -> None:
        """Freeze every process of the unit. Raises UnitFailed.

        Through the kernel, not through systemd: a unit that systemd 257 has frozen and that is then killed,
        say by the OOM killer, can be neither thawed, stopped nor started until the next boot.
        """
        _set_frozen(name, True)

    @staticmethod
    def offer_memory(name: TenantName) -> None:
        """Have the kernel reclaim what it can of a frozen unit's memory. Blocking.

        See "memory.reclaim" in the kernel's cgroup-v2 documentation: EAGAIN means that less was reclaimed.
        Without a memory controller there is no such file, and nothing happens.
        """
        group = _cgroup(name)
        with suppress(OSError):
            current = (group / "memory.current").read_text()
            (group / "memory.reclaim").write_text(current)

    async def thaw(self, name: TenantName) -> None:
        """Thaw the unit. Raises UnitFailed."""
        _set_frozen(name, False)
        self._thawed.add(name)

    @staticmethod
    def is_frozen(name: TenantName) -> bool:
        """Whether the unit is frozen, whoever did it."""
        try:
            return (_cgroup(name) / "cgroup.freeze").read_text() == "1\n"
        except OSError:
            return False

    async def stop(self, name: TenantName, service: Service | None) -> None:
        """Stop the unit, until no process of it is left. Raises UnitFailed, UnitTimeout."""
        if name in self._thawed:
            self._thawed.discard(name)
            # A thread on its way out of the freezer takes no signal: SIGTERM would go to another one, where a
            # Python program, say, does not hear of it while its main thread waits.
            await asyncio.sleep(_THAWING_S)
        timeout_s = (service.stop_timeout_s if service else 90.0) + _JOB_MARGIN_S
        try:
            async with self._stops:
                result = await (await self._systemd.stop(name.unit)).result(timeout_s)
                if result == "frozen":
                    await self._systemd.thaw(name.unit)
                    await (await self._systemd.stop(name.unit)).result(timeout_s)
        except SystemdError as error:
            if not error.name.endswith("NoSuchUnit"):
                raise UnitFailed(f"cannot be stopped: {error}") from error
        except TimeoutError as error:
            raise UnitTimeout(f"not stopped within {timeout_s:g} s") from error

    def clean_up(self, instance: Instance) -> None:
        """Remove what a start had made, once its unit is gone."""
        if instance.gate is not None:
            os.close(instance.gate)
            instance.gate = None
        self.remove_files(instance.name)
        if instance.launch.port is not None:
            self.ports.give_back(instance.launch.port)

    @staticmethod
    def remove_files(name: TenantName) -> None:
        """Remove the gate and the socket of a unit that is gone."""
        for path in (gate_path(name), socket_path(name)):
            with suppress(OSError):
                os.unlink(path)
        with suppress(OSError):
            os.rmdir(os.path.dirname(socket_path(name)))

    async def kill(self, name: TenantName, signal: int) -> None:
        """Send a signal to every process of the unit; a unit that is gone is fine."""
        with suppress(SystemdError):
            await self._systemd.kill(name.unit, signal)

    async def forget_failure(self, name: TenantName) -> None:
        """Clear systemd's memory of a failed unit."""
        with suppress(SystemdError):
            await self._systemd.reset_failed(name.unit)

    async def refresh_slice(self, service: Service) -> None:
        """Bring the slice of a service up to date, if it is there."""
        if service.name in self._slices:
            with suppress(SystemdError):
                await self._update_slice(service)

    @staticmethod
    def purge(name: TenantName) -> None:
        """Delete the tenant's data. Blocking. Raises OSError."""
        link = Path(data_path(name))
        for path in (Path("/var/lib/private") / name.data_directory, link):
            if path.is_symlink():
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)

    # Private

    def _free_port(self) -> int | None:
        """A port that nobody has: a tenant may hold ports of the range that are not its own."""
        held = []
        while (port := self.ports.take()) is not None and listeners.is_held(port):
            held.append(port)
        for each in held:
            self.ports.give_back(each)
        return port

    async def _launch(self, instance: Instance) -> "asyncio.Future[str]":
        """Have systemd start the unit; gives its job's result as a future."""
        name = instance.name
        await self.ensure_slice(instance.service)
        if not instance.service.storage_persist:
            await asyncio.to_thread(self.purge, name)
        properties = tenant_unit(instance.service, name, instance.launch, self._version)
        listener = self._listen(name) if instance.service.listen == "fd" else None
        fds = [listener.fileno()] if listener else []
        try:
            try:
                job = await self._systemd.start_transient(name.unit, properties, fds)
            except SystemdError as error:
                if not error.name.endswith("UnitExists"):
                    raise
                # A failed unit stays loaded until it is reset.
                await self.forget_failure(name)
                await self.stop(name, instance.service)
                job = await self._systemd.start_transient(name.unit, properties, fds)
        except (SystemdError, TimeoutError) as error:
            raise UnitFailed(f"systemd refused the unit: {error}") from error
        finally:
            if listener:
                # systemd keeps it as long as the unit lives, across restarts too.
                listener.close()
        return asyncio.ensure_future(job.result(instance.service.startup_timeout_s + _JOB_MARGIN_S))

    @staticmethod
    async def _job_done(job: "asyncio.Future[str]", instance: Instance) -> None:
        try:
            result = await job
        except TimeoutError as error:
            raise UnitTimeout(f"{instance.name}: systemd did not finish the start in time") from error
        if result != "done":
            raise UnitDied(f"{instance.name}: the start ended as {result!r}")

    async def ensure_slice(self, service: Service) -> None:
        """Make the slice of a service, if it is not there. Raises UnitFailed."""
        task = self._slices.get(service.name)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = asyncio.create_task(self._make_slice(service))
            self._slices[service.name] = task
        await asyncio.shield(task)

    async def _make_slice(self, service: Service) -> None:
        hide_names(service.name)
        properties = slice_properties(service, self._own_addresses())
        try:
            try:
                job = await self._systemd.start_transient(service_slice(service.name), properties)
                await job.result(_JOB_MARGIN_S)
            except SystemdError as error:
                if not error.name.endswith("UnitExists"):
                    raise
                await self._update_slice(service)
        except SystemdError as error:
            raise UnitFailed(f"systemd refused the slice of {service.name}: {error}") from error
        except TimeoutError as error:
            raise UnitFailed(f"systemd did not make the slice of {service.name} in time") from error

    async def _update_slice(self, service: Service) -> None:
        """Give a slice that is there the properties it should have. Raises SystemdError."""
        properties = slice_properties(service, self._own_addresses())
        # What never changes stays out: systemd would add the same once more.
        changing = [each for each in properties if not each.name.startswith("SocketBind")]
        await self._systemd.set_properties(service_slice(service.name), changing)

    def _listen(self, name: TenantName) -> socket.socket:
        """A unix socket for an app that is handed its listener; only the proxy may connect."""
        path = Path(socket_path(name))
        path.parent.mkdir(exist_ok=True)
        os.chmod(path.parent, 0o711)
        with suppress(FileNotFoundError):
            path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(path))
            os.chown(path, 0, self._proxy_gid)
            os.chmod(path, _GROUP_MAY_CONNECT)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        return listener

    async def _open_socket(self, instance: Instance, timeout_s: float) -> float:
        """Let the proxy connect to the socket that the app makes; gives the seconds left for the rest."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        pause_s = FIRST_PAUSE_S
        while not self._let_proxy_in(socket_path(instance.name)):
            if loop.time() >= deadline:
                raise UnitTimeout(f"not ready within {timeout_s:g} s: it made no socket at $SOCKET_PATH")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * PAUSE_GROWTH, LONGEST_PAUSE_S)
        return max(0.001, deadline - loop.time())

    def _let_proxy_in(self, path: str) -> bool:
        """Whether there is a socket at `path`, which the proxy's group may now use.

        The directory is the tenant's: a link to another file must not be followed, so the file is held open
        while its kind is checked and its mode changed.
        """
        try:
            fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                raise UnitFailed("what it made at $SOCKET_PATH is not a socket")
            held = f"/proc/self/fd/{fd}"
            os.chown(held, -1, self._proxy_gid)
            os.chmod(held, _GROUP_MAY_CONNECT)
        finally:
            os.close(fd)
        return True

    @staticmethod
    def _check_listeners(port: int, uid: int) -> None:
        """Whether the tenant itself listens, and not for the whole world. Raises UnitFailed."""
        found = listeners.listeners(port)
        for listener in found:
            if listener.everywhere:
                raise UnitFailed(
                    f"listens on every address of the host ({listener.address}), where the internet and "
                    "other tenants reach it past the proxy: make it listen on $HOST (127.0.0.1)"
                )
        if any(listener.uid != uid for listener in found):
            raise UnitFailed(f"its port {port} is held by a process of another user")

    async def _uid(self, name: TenantName, facts: Facts) -> int:
        if facts.uid is not None:
            return facts.uid
        try:
            return int(await self._systemd.get(name.unit, SERVICE, "UID"))
        except (SystemdError, TimeoutError) as error:
            raise UnitFailed(f"its user is not known: {error}") from error


def _cgroup(name: TenantName) -> Path:
    return Path("/sys/fs/cgroup/tenement.slice") / name.slice / name.unit


def _set_frozen(name: TenantName, frozen: bool) -> None:
    # See "cgroup.freeze" in the kernel's cgroup-v2 documentation.
    try:
        (_cgroup(name) / "cgroup.freeze").write_text("1" if frozen else "0")
    except OSError as error:
        raise UnitFailed(f"cannot be {'frozen' if frozen else 'thawed'}: {error.strerror}") from error
