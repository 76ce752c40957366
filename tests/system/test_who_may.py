"""Who may do what: the bus policy for everybody there is, and a worker of the proxy in bad hands."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .apps import Tenant
from .conftest import Box
from .hostile import ATTACKS, Scene, attacks, scene

BUS = "/src/tests/system/hostile/bus.py"
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
WORKER = {"GetRoutes", "Lease", "Release", "Report"}
API = {
    "Act",
    "CloseSession",
    "Measure",
    "OpenEvents",
    "OpenLogs",
    "OpenSession",
    "VerifyToken",
    "WebSettings",
}


@pytest.fixture(scope="module")
def methods(box: Box) -> list[str]:
    """Every method that the manager has."""
    listed = box.run("busctl introspect dev.tenement.Manager /dev/tenement/Manager dev.tenement.Manager1")
    found = re.findall(r"^\.(\w+)\s+method", listed.stdout, re.MULTILINE)
    assert len(found) > 20
    return found


def ask(box: Box, identity: str, methods: list[str]) -> dict[str, Any] | None:
    """What somebody gets from the bus; None if it does not listen."""
    command = f"cd /; setpriv {identity} /usr/bin/python3 {BUS} {' '.join(methods)}"
    answer: dict[str, Any] | None = json.loads(box.run(command).stdout)
    return answer


def may(found: dict[str, Any]) -> set[str]:
    return {name for name, error in found["methods"].items() if error != DENIED}


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        pytest.param("--reuid=root", None, id="root"),
        pytest.param("--reuid=nobody --regid=nogroup --groups=tenement", None, id="group tenement"),
        pytest.param("--reuid=tenement-proxy --regid=tenement-proxy --clear-groups", WORKER, id="the proxy"),
        pytest.param("--reuid=tenement-api --regid=tenement-api --clear-groups", API, id="the HTTP API"),
        pytest.param("--reuid=nobody --regid=nogroup --clear-groups", set(), id="nobody"),
    ],
)
def test_the_bus_lets_each_call_what_is_theirs(
    box: Box, methods: list[str], identity: str, expected: set[str] | None
) -> None:
    found = ask(box, identity, methods)
    assert found is not None
    assert may(found) == (set(methods) if expected is None else expected)
    root = identity == "--reuid=root"
    assert (found["property"] == "") == (expected is None)
    # Root may take any name; only the manager has it, so that it gets a place in the queue.
    assert (found["own"] == "") == root
    refused = {DENIED, "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"}
    assert {error in refused for error in found["systemd"].values()} == {not root}


def test_a_tenant_out_of_its_sandbox_may_call_nothing(
    box: Box, methods: list[str], tenant: Callable[..., str]
) -> None:
    name = tenant()
    box.run(["ten", "spawn", name])
    uid = Tenant(box, name).show("UID")[0]
    found = ask(box, f"--reuid={uid} --regid={uid} --clear-groups", methods)
    assert found is None or (may(found) == set() and found["own"] == DENIED)


def test_only_who_may_manage_hears_of_tenants(box: Box, tenant: Callable[..., str]) -> None:
    name = tenant()
    listeners = {
        "root": "--reuid=root",
        "member": "--reuid=nobody --regid=nogroup --groups=tenement",
        "nobody": "--reuid=nobody --regid=nogroup --clear-groups",
    }
    box.run(
        "".join(
            f"rm -f /tmp/heard-{who}; setpriv {identity} timeout 10 dbus-monitor --system "
            f"\"type='signal',interface='dev.tenement.Manager1'\" >/tmp/heard-{who} 2>/dev/null &\n"
            for who, identity in listeners.items()
        ),
        check=False,
    )

    def heard(who: str) -> bool:
        return name in box.run(f"cat /tmp/heard-{who}", check=False).stdout

    def told() -> bool:
        box.run(["ten", "spawn", "--no-start", name], check=False)
        box.run(["ten", "rm", "-y", "--purge", name], check=False)
        return heard("root") and heard("member")

    box.wait_for(told, 10)
    assert not heard("nobody")


# A worker in an attacker's hands


@pytest.fixture(scope="module")
def scenery(box: Box) -> Iterator[Scene]:
    with scene(box) as found:
        yield found


OPEN_TO_WORKERS = re.compile(
    # It is on the network, for its work.
    "^(connect|ask a service|send to|bind|listen)"
    # What it reads for its work, and what every service of the host may see.
    "|^read certificates' keys$|other tenants' data directories$|^see other tenants' control groups$"
    # For these it would have to be shown a directory of its own.
    "|^raise its limit|^notify PID 1$|^make a program that runs|^make a device|without end$"
)


def test_a_compromised_worker_gets_nothing_but_what_it_works_with(
    scenery: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    box = scenery.box
    names = [name for name in attacks.ATTACKS if not OPEN_TO_WORKERS.search(name)]
    assert len(names) > 70
    program = f"/usr/bin/python3 -IS {ATTACKS}"
    said = run_as_worker(box, "attacks", program, names, stdin=json.dumps(scenery.targets))
    tried = json.loads(said)
    assert set(tried) == set(names)
    broken = {name: got for name, (got, _) in tried.items() if got is not None}
    with capsys.disabled():
        print(f"\nattacks from a compromised worker: {len(tried)} tried, {len(tried) - len(broken)} refused")
    assert not broken


def test_a_compromised_worker_may_lease_and_no_more(scenery: Scene, methods: list[str]) -> None:
    box = scenery.box
    said = run_as_worker(box, "bus", f"/usr/bin/python3 {BUS}", methods)
    found = json.loads(said)
    assert may(found) == WORKER
    assert found["own"] == DENIED


def run_as_worker(box: Box, instance: str, command: str, arguments: list[str], stdin: str = "") -> str:
    """Run a program with everything that tenement-proxy@.service has around its own; gives what it prints."""
    unit = box.run("cat /usr/lib/systemd/system/tenement-proxy@.service").stdout
    own = r"#|ExecStart=|Sockets=|Watchdog|Restart|Type=|Wants=|After=|PartOf=|WantedBy="
    lines = [line for line in unit.splitlines() if not re.match(own, line)]
    words = " ".join(f'"{word}"' for word in arguments)
    box.run("cat >/run/compromised-input", input=stdin)
    at = lines.index("[Service]") + 1
    lines[at:at] = [
        f"ExecStart={command} {words}",
        "Type=oneshot",
        "StandardInput=file:/run/compromised-input",
        "StandardOutput=truncate:/run/compromised-output",
        "StandardError=journal",
    ]
    box.run("cat >/run/systemd/system/compromised@.service", input="\n".join(lines))
    try:
        box.run(f"systemctl daemon-reload && systemctl start compromised@{instance}")
        return box.run("cat /run/compromised-output").stdout
    finally:
        box.run(
            "rm -f /run/systemd/system/compromised@.service /run/compromised-*; systemctl daemon-reload",
            check=False,
        )
