"""The box as tests see it.

Tests run outside of the box, so that they drive the installed package as a user does, but on its network:
127.0.0.1:80 is the proxy. tools/box starts them so, and tells where the box is in /run/box/state.json.
"""

import contextlib
import email.message
import http.client
import itertools
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

STATE = Path("/run/box/state.json")
BOOT_TIMEOUT_S = 90.0
ENVIRONMENT = (
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME=/root",
    "LC_ALL=C.UTF-8",
    "TERM=dumb",
)


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response, read to its end."""

    status: int
    headers: email.message.Message
    body: bytes

    def json(self) -> object:
        """Decode the content as JSON."""
        return json.loads(self.body)


class Box:
    """A booted Debian with tenement installed; the notes example is set up as service `notes`."""

    def __init__(self, state: Path = STATE) -> None:
        self._state = state
        self._numbers = itertools.count(1)
        self._configs: list[str] = []

    def _read(self, key: str) -> object:
        return json.loads(self._state.read_text())[key]

    @property
    def leader(self) -> int:
        """Process id, outside, of PID 1 of the box; changes when the box reboots."""
        return int(str(self._read("leader")))

    @property
    def root(self) -> Path:
        """The box's file system as seen from the tests; changes when the box reboots."""
        return Path(f"/proc/{self.leader}/root")

    @property
    def cgroup(self) -> Path:
        """The cgroup of the box's PID 1, outside: /system.slice and /tenement.slice are below it."""
        return Path(str(self._read("cgroup")))

    def command(
        self, command: str | list[str], *, user: str | None = None, cgroup: Path | None = None
    ) -> list[str]:
        """Return the command line that runs `command` in all namespaces and a cgroup of the box.

        For processes that a test starts with Popen, say a load generator; a string is run by bash.
        """
        words = ["bash", "-c", command] if isinstance(command, str) else command
        if user:
            words = ["runuser", "-u", user, "--", *words]
        group = cgroup or self.cgroup / "commands"
        group.mkdir(exist_ok=True)
        join = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(group)]
        enter = ["nsenter", "-t", str(self.leader), *shlex.split("-m -u -i -n -p -C -r -w")]
        return [*join, *enter, "env", "-i", *ENVIRONMENT, *words]

    def run(
        self,
        command: str | list[str],
        *,
        check: bool = True,
        user: str | None = None,
        timeout_s: float = 60,
        input: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the box, as root or as `user`; a string is run by bash.

        With `check`, a status other than 0 fails the test, with what the command printed. Processes that it
        left in the background go on, unless it timed out.
        """
        __tracebackhide__ = True
        cgroup = self.cgroup / f"command-{next(self._numbers)}"
        words = self.command(command, user=user, cgroup=cgroup)
        stdin = None if input is not None else subprocess.DEVNULL
        try:
            result = subprocess.run(
                words, check=False, capture_output=True, text=True, errors="replace", timeout=timeout_s,
                input=input, stdin=stdin,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            (cgroup / "cgroup.kill").write_text("1")
            raise
        # OSError: something goes on in the background.
        with contextlib.suppress(OSError):
            cgroup.rmdir()
        if check and result.returncode:
            pytest.fail(f"{command!r}: status {result.returncode}\n{result.stdout}{result.stderr}")
        return result

    def reboot(self) -> None:
        """Reboot the box, wait until it is up again, and move this thread into its new network."""
        boots = int(str(self._read("boots")))
        self.run("systemctl reboot", check=False)
        self.wait_for(lambda: int(str(self._read("boots"))) > boots and self._read("ready"), BOOT_TIMEOUT_S)
        network = os.open(f"/proc/{self.leader}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.setns(network, os.CLONE_NEWNET)
        finally:
            os.close(network)

    def wait_for[T](self, predicate: Callable[[], T], timeout_s: float) -> T:
        """Call `predicate` until it returns something true, and return that; fails after `timeout_s`."""
        __tracebackhide__ = True
        deadline = time.monotonic() + timeout_s
        while True:
            if result := predicate():
                return result
            if time.monotonic() > deadline:
                pytest.fail(f"still {result!r} after {timeout_s} s")
            time.sleep(0.02)

    def http(
        self,
        host: str,
        path: str = "/",
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | str | None = None,
        timeout_s: float = 30,
    ) -> Response:
        """Send one request to the proxy on 127.0.0.1:80, on its own connection, and read the response."""
        connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=timeout_s)
        try:
            connection.request(method, path, body=body, headers={"Host": host, **(headers or {})})
            answer = connection.getresponse()
            return Response(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def write_config(self, name: str, toml: str, *, keep: bool = False) -> None:
        """Write /etc/tenement/tenement.d/NAME.toml and have the manager load it.

        Removed again after the test, unless `keep`.
        """
        self.run(f"install -m 0640 -g tenement /dev/stdin /etc/tenement/tenement.d/{name}.toml", input=toml)
        if not keep:
            self._configs.append(name)
        self.run("ten reload")

    def remove_configs(self) -> None:
        """Remove what write_config() wrote."""
        if self._configs:
            files = " ".join(f"/etc/tenement/tenement.d/{name}.toml" for name in self._configs)
            self._configs.clear()
            self.run(f"rm -f {files}; ten reload")


@pytest.fixture(scope="session")
def box() -> Box:
    """The box that tools/box booted for this run."""
    if not STATE.exists():
        pytest.skip("system tests need a box: make test")
    return Box()


@pytest.fixture(autouse=True)
def configs_removed(box: Box) -> Iterator[None]:
    yield
    box.remove_configs()


@pytest.fixture
def tenant(box: Box) -> Iterator[Callable[..., str]]:
    """Make names of tenants, unique to this test; each is removed with its data afterwards.

    `tenant()` is of service `notes`, `tenant("other")` of another. Nothing is spawned yet.
    """
    names: list[str] = []

    def new(service: str = "notes") -> str:
        name = f"{service}:t{os.urandom(4).hex()}"
        names.append(name)
        return name

    yield new
    if names:
        box.run(["ten", "rm", "--purge", "-y", *names], check=False)
