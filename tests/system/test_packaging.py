"""What installing, upgrading, removing and purging the package does to a machine.

The packages are in /srv of the box. The test that takes them away sets the box up again as tools/box does.
"""

import contextlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tenement import __version__

from .conftest import Box

SOURCE = Path(__file__).parent.parent.parent
UNITS = "tenement-manager.service tenement-http.socket tenement-https.socket tenement-proxy.target"
APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq"


def test_the_version_is_the_same_everywhere(box: Box) -> None:
    changelog = re.match(r"tenement \((.*?)\)", (SOURCE / "debian" / "changelog").read_text())
    assert changelog and changelog[1] == __version__
    assert box.run("dpkg-query -W -f '${Version}' tenement").stdout == __version__
    assert f"\n## {__version__}\n" in (SOURCE / "CHANGELOG.md").read_text()


def test_an_installation_starts_and_enables_sockets_and_manager(box: Box) -> None:
    assert set(box.run(f"systemctl is-active {UNITS}").stdout.split()) == {"active"}
    assert set(box.run(f"systemctl is-enabled {UNITS}").stdout.split()) == {"enabled"}


def test_there_is_a_worker_for_each_core(box: Box) -> None:
    cores = int(box.run("nproc").stdout)
    workers = box.run("systemctl list-units --state=active --plain --no-legend 'tenement-proxy@*'").stdout
    assert len(workers.splitlines()) == cores


def test_one_command_adds_a_worker_and_one_removes_it(box: Box) -> None:
    box.run("systemctl enable --now tenement-proxy@9")
    assert box.run("systemctl is-active tenement-proxy@9").stdout == "active\n"
    assert "tenement-proxy@9.service" in box.run("systemctl show -p Wants tenement-proxy.target").stdout
    box.run("systemctl disable --now tenement-proxy@9")
    assert "tenement-proxy@9.service" not in box.run("systemctl show -p Wants tenement-proxy.target").stdout


def test_users_have_no_shell_and_configuration_is_closed_to_others(box: Box) -> None:
    for user in ("tenement-proxy", "tenement-api"):
        assert box.run(f"getent passwd {user}").stdout.strip().endswith(":/usr/sbin/nologin")
    modes = box.run(
        "stat -c '%a %U:%G' /etc/tenement /etc/tenement/tenement.d /etc/tenement/tenement.toml"
    ).stdout
    assert modes == "750 root:tenement\n750 root:tenement\n640 root:tenement\n"
    state = box.run("stat -c '%a %U' /var/lib/tenement-manager /var/lib/private /run/tenement").stdout
    assert state == "700 root\n700 root\n755 root\n"


@pytest.mark.parametrize(
    ("unit", "limit"),
    [
        ("tenement-api.service", 1.5),
        ("tenement-manager.service", 3.5),
        ("tenement-proxy@1.service", 1.5),
    ],
)
def test_own_services_are_sandboxed(box: Box, unit: str, limit: float) -> None:
    verdict = box.run(f"systemd-analyze security --no-pager {unit} | tail -n 1").stdout
    score = re.search(r"service: ([0-9.]+) ", verdict)
    assert score and float(score[1]) <= limit, verdict


@pytest.mark.parametrize(
    ("user", "call", "allowed"),
    [
        ("nobody", "GetRoutes", False),
        ("nobody", "List s ''", False),
        ("tenement-proxy", "GetRoutes", True),
        ("tenement-proxy", "List s ''", False),
        ("tenement-proxy", "Spawn ssb notes mallory false", False),
        ("root", "List s ''", True),
    ],
)
def test_the_bus_lets_everybody_do_only_what_is_theirs(box: Box, user: str, call: str, allowed: bool) -> None:
    manager = "dev.tenement.Manager /dev/tenement/Manager dev.tenement.Manager1"
    answer = box.run(f"busctl call {manager} {call}", user=user, check=False)
    assert (answer.returncode == 0) == allowed, answer.stderr
    if not allowed:
        assert "Access denied" in answer.stderr or "rejected" in answer.stderr


def test_a_member_of_group_tenement_may_manage(box: Box) -> None:
    box.run("useradd --groups tenement landlord")
    try:
        box.run("ten ps", user="landlord")
    finally:
        box.run("userdel landlord")


class Load:
    """Requests to some tenants, one connection each, until stopped; keeps what was not answered."""

    def __init__(self, box: Box, hosts: list[str]) -> None:
        self._box = box
        self._hosts = hosts
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._request, args=(host,)) for host in hosts]
        self.answered = 0
        self.failures: list[str] = []
        self.slowest_s = 0.0

    def _request(self, host: str) -> None:
        while not self._stop.is_set():
            start = time.monotonic()
            try:
                status = self._box.http(host, "/notes").status
            except OSError as error:
                self.failures.append(f"{host}: {error!r}")
            else:
                if status == 200:
                    self.answered += 1
                else:
                    self.failures.append(f"{host}: {status}")
            self.slowest_s = max(self.slowest_s, time.monotonic() - start)
            self._stop.wait(0.005)

    @contextlib.contextmanager
    def running(self) -> Iterator["Load"]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


def packages(box: Box) -> list[str]:
    """Return where in the box the packages are: tenement, tenement-native."""
    return [
        f"/srv/{next((box.root / 'srv').glob(pattern)).name}"
        for pattern in ("tenement_*.deb", "tenement-native_*.deb")
    ]


def newer_packages(box: Box, directory: Path, version: str) -> list[str]:
    """Put the packages, with another version number, into the box; returns their paths there."""
    paths = []
    for package in packages(box):
        tree = directory / "tree"
        subprocess.run(["dpkg-deb", "-R", f"{box.root}{package}", tree], check=True)
        control = tree / "DEBIAN" / "control"
        # Its own, and the other package's in Depends and Breaks.
        versions = rf"^(Version: |.*\btenement.* \((?:=|<<) ){re.escape(__version__)}"
        control.write_text(re.sub(versions, rf"\g<1>{version}", control.read_text(), flags=re.MULTILINE))
        newer = Path("/var/tmp") / Path(package).name.replace(__version__, version)
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-b", tree, f"{box.root}{newer}"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        shutil.rmtree(tree)
        paths.append(str(newer))
    return paths


def worker_pids(box: Box) -> dict[str, int]:
    shown = box.run("systemctl show -p Id,MainPID 'tenement-proxy@*'").stdout
    blocks = (dict(line.split("=", 1) for line in block.splitlines()) for block in shown.split("\n\n"))
    return {block["Id"]: int(block["MainPID"]) for block in blocks if block.get("MainPID", "0") != "0"}


def wait_until_replaced(box: Box, before: dict[str, int]) -> None:
    """Wait until all workers are other processes than `before`: that goes on in the background."""

    def replaced() -> bool:
        state = box.run("systemctl show -p ActiveState --value tenement-proxy-replace.service").stdout
        now = worker_pids(box)
        new = not set(before.values()) & set(now.values())
        return state == "inactive\n" and set(before) == set(now) and new

    box.wait_for(replaced, 90)


def native_workers(box: Box) -> int:
    """Count the workers that run compiled modules; fails if those are not the installed ones."""
    maps = [
        box.run(f"grep __mypyc /proc/{pid}/maps", check=False).stdout for pid in worker_pids(box).values()
    ]
    assert "(deleted)" not in "".join(maps)
    return sum(map(bool, maps))


def test_upgrade_again_and_downgrade_lose_no_request_and_no_tenant(
    box: Box, tenant: Callable[..., str], tmp_path: Path
) -> None:
    names = [tenant() for _ in range(4)]
    box.run(["ten", "spawn", *names])
    hosts = [f"{name.partition(':')[2]}.notes.localhost" for name in names]
    units = [f"tenement-notes@{name.partition(':')[2]}.service" for name in names]
    show = "systemctl show -p Id,InvocationID,ActiveState " + " ".join(units)
    before = box.run(show).stdout
    newer = newer_packages(box, tmp_path, f"{__version__}+newer")
    with Load(box, hosts).running() as load:
        for together in (newer, newer, packages(box)):
            workers = worker_pids(box)
            manager = box.run("systemctl show -p MainPID --value tenement-manager").stdout
            install = f"{APT} install -y --reinstall --allow-downgrades " + " ".join(together)
            box.run(install, timeout_s=120)
            wait_until_replaced(box, workers)
            assert native_workers(box) == len(workers)
            assert manager != box.run("systemctl show -p MainPID --value tenement-manager").stdout
    assert not load.failures
    assert load.answered > 100
    assert box.run(show).stdout == before
    assert box.run("dpkg-query -W -f '${Version}' tenement").stdout == __version__


def test_native_code_goes_and_comes_without_losing_a_request(box: Box, tenant: Callable[..., str]) -> None:
    name = tenant()
    box.run(["ten", "spawn", name])
    native = packages(box)[1]
    workers = worker_pids(box)
    with Load(box, [f"{name.partition(':')[2]}.notes.localhost"]).running() as load:
        for command, expected in (("remove -y tenement-native", 0), (f"install -y {native}", len(workers))):
            workers = worker_pids(box)
            box.run(f"{APT} {command}", timeout_s=120)
            wait_until_replaced(box, workers)
            assert native_workers(box) == expected
    assert not load.failures
    assert load.answered > 50


def test_no_worker_is_replaced_while_native_code_is_of_another_version(box: Box, tmp_path: Path) -> None:
    newer, newer_native = newer_packages(box, tmp_path, f"{__version__}+newer")
    try:
        workers = worker_pids(box)
        # Fails, since native code of another version cannot be configured.
        box.run(f"dpkg --auto-deconfigure -i {newer}", check=False, timeout_s=120)
        versions = box.run("dpkg-query -W -f '${Version} ' tenement tenement-native").stdout
        assert versions == f"{__version__}+newer {__version__} "
        # Longer than it takes until the first is replaced.
        time.sleep(2)
        assert worker_pids(box) == workers
        box.run(f"dpkg -i {newer_native}", timeout_s=120)
        wait_until_replaced(box, workers)
    finally:
        workers = worker_pids(box)
        # apt would refuse if the packages were still at odds.
        box.run("dpkg -i " + " ".join(packages(box)), timeout_s=120)
        wait_until_replaced(box, workers)
    assert native_workers(box) == len(workers)


def test_the_smoke_test_of_the_package_passes(box: Box) -> None:
    box.run("rm -rf /srv/notes && sh /src/debian/tests/smoke")


def set_up_again(box: Box) -> None:
    """Install the packages from /srv, and set up the notes example, as tools/box did."""
    script = "rm -rf /srv/notes\n" + (SOURCE / "tools" / "box-setup").read_text()
    box.run(["sh", "-euc", script, "box-setup", *packages(box)], timeout_s=120)


def test_remove_stops_tenants_and_keeps_data_and_purge_still_keeps_tenants_data(box: Box) -> None:
    box.run("ten spawn notes:kept notes:frozen")
    box.http("kept.notes.localhost", "/notes", "POST", body="precious")
    box.run("systemctl freeze tenement-notes@frozen.service")
    log = box.run("ten logs notes:kept -o cat").stdout
    assert "Started " in log
    notes = "var/lib/private/tenement/notes/kept/notes.db"
    try:
        box.run(f"{APT} remove -y tenement", timeout_s=120)
        assert box.run("systemctl list-units --no-legend --plain 'tenement*'").stdout == ""
        assert box.run("pgrep -fa notes.py", check=False).stdout == ""
        assert (box.root / "etc/tenement/tenement.d/notes.toml").exists()
        assert (box.root / "var/lib/tenement-manager").is_dir()
        assert (box.root / notes).exists()

        printed = box.run(f"{APT} purge -y tenement").stdout
        assert "/var/lib/private/tenement" in printed
        assert (box.root / notes).exists()
        for path in ("etc/tenement", "var/lib/tenement-manager", "run/tenement"):
            assert not (box.root / path).exists()
    finally:
        set_up_again(box)

    box.run("ten spawn notes:kept")
    answer = box.http("kept.notes.localhost", "/notes")
    assert answer.json() == [{"id": 1, "text": "precious"}]
    assert box.run("ten logs notes:kept -o cat").stdout.startswith(log)
    box.run("ten rm --purge -y notes:kept")
