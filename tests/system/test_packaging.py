"""What installing, upgrading, removing and purging the package does to a machine.

The package is in /srv of the box. The test that takes it away sets the box up again as tools/box does.
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


def newer_package(box: Box, directory: Path, version: str) -> str:
    """Put the package, with another version number, into the box; returns its path there."""
    package = next((box.root / "srv").glob("tenement_*.deb"))
    tree = directory / version
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN" / "control"
    control.write_text(
        re.sub(r"^Version: .*", f"Version: {version}", control.read_text(), flags=re.MULTILINE)
    )
    built = directory / f"tenement_{version}_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", tree, built], check=True, stdout=subprocess.DEVNULL
    )
    shutil.copy(built, box.root / "var" / "tmp")
    return f"/var/tmp/{built.name}"


def worker_pids(box: Box) -> dict[str, int]:
    shown = box.run("systemctl show -p Id,MainPID 'tenement-proxy@*'").stdout
    blocks = (dict(line.split("=", 1) for line in block.splitlines()) for block in shown.split("\n\n"))
    return {block["Id"]: int(block["MainPID"]) for block in blocks if block.get("MainPID", "0") != "0"}


def test_upgrade_again_and_downgrade_lose_no_request_and_no_tenant(
    box: Box, tenant: Callable[..., str], tmp_path: Path
) -> None:
    names = [tenant() for _ in range(4)]
    box.run(["ten", "spawn", *names])
    hosts = [f"{name.partition(':')[2]}.notes.localhost" for name in names]
    units = [f"tenement-notes@{name.partition(':')[2]}.service" for name in names]
    show = "systemctl show -p Id,InvocationID,ActiveState " + " ".join(units)
    before = box.run(show).stdout
    original = next((box.root / "srv").glob("tenement_*.deb")).name
    newer = newer_package(box, tmp_path, f"{__version__}+newer")
    with Load(box, hosts).running() as load:
        for package in (newer, newer, f"/srv/{original}"):
            workers = worker_pids(box)
            manager = box.run("systemctl show -p MainPID --value tenement-manager").stdout
            box.run(f"{APT} install -y --reinstall --allow-downgrades {package}", timeout_s=120)
            # The replacement of the workers goes on in the background.
            replaced = "systemctl show -p ActiveState --value tenement-proxy-replace.service"
            box.wait_for(lambda command=replaced: box.run(command).stdout == "inactive\n", 90)  # type: ignore[misc]
            assert not set(workers.values()) & set(worker_pids(box).values())
            assert set(workers) == set(worker_pids(box))
            assert manager != box.run("systemctl show -p MainPID --value tenement-manager").stdout
    assert not load.failures
    assert load.answered > 100
    assert box.run(show).stdout == before
    assert box.run("dpkg-query -W -f '${Version}' tenement").stdout == __version__


def test_the_smoke_test_of_the_package_passes(box: Box) -> None:
    box.run("rm -rf /srv/notes && sh /src/debian/tests/smoke")


def set_up_again(box: Box) -> None:
    """Install the package from /srv, and set up the notes example, as tools/box did."""
    package = next((box.root / "srv").glob("tenement_*.deb")).name
    script = "rm -rf /srv/notes\n" + (SOURCE / "tools" / "box-setup").read_text()
    box.run(["sh", "-euc", script, "box-setup", f"/srv/{package}"], timeout_s=120)


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
