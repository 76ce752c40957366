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
DENIED_BY_MANAGER = "dev.tenement.Error.Denied"
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
    refusals = (DENIED, DENIED_BY_MANAGER)
    return {name for name, error in found["methods"].items() if error not in refusals}


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
    refused = {
        DENIED,
        "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
        # How systemd tells that there is no polkit to ask in this box.
        "org.freedesktop.systemd1.UnitMasked",
    }
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
        "sudoer": "--reuid=nobody --regid=nogroup --groups=sudo",
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
    assert not heard("nobody") and not heard("sudoer")


# Administrators of a desktop, of whom polkit decides

ALLOW_ALL = """polkit.addRule(function (action, subject) {
    return action.id == "dev.tenement.manage" ? polkit.Result.YES : polkit.Result.NOT_HANDLED;
});
"""


@pytest.fixture
def sudoer(box: Box) -> Iterator[str]:
    """A member of group sudo, as options of setpriv."""
    box.run("useradd --groups sudo --user-group sudoer")
    yield "--reuid=sudoer --regid=sudoer --init-groups"
    box.run("userdel sudoer")


@pytest.fixture
def polkit(box: Box) -> Iterator[Callable[[str], None]]:
    """Starts polkit with some rules besides Debian's own."""
    mask, rules = "/etc/systemd/system/polkit.service", "/etc/polkit-1/rules.d/10-test.rules"

    def start(text: str) -> None:
        box.run(f"cat >{rules}; chmod 644 {rules}; rm -f {mask}", input=text)
        box.run("systemctl daemon-reload && systemctl restart polkit.service")

    yield start
    box.run(f"systemctl stop polkit.service; rm -f {rules}; ln -sf /dev/null {mask}; systemctl daemon-reload")


def test_without_polkit_an_administrator_of_the_desktop_may_nothing(
    box: Box, methods: list[str], sudoer: str
) -> None:
    found = ask(box, sudoer, methods)
    assert found is not None
    assert may(found) == set()
    assert found["own"] == DENIED
    refused = box.run(f"cd /; setpriv {sudoer} ten ps", check=False)
    assert refused.returncode == 4
    assert "join group 'tenement'" in refused.stderr


def test_with_polkit_an_administrator_has_to_show_who_he_is(
    box: Box, methods: list[str], sudoer: str, polkit: Callable[[str], None]
) -> None:
    """Nobody is there to type a password."""
    polkit("")
    shown = box.run("pkaction --verbose --action-id dev.tenement.manage").stdout
    assert re.search(r"implicit any:\s+auth_admin$", shown, re.MULTILINE)
    found = ask(box, sudoer, methods)
    assert found is not None
    assert may(found) == set()
    assert box.run(f"cd /; setpriv {sudoer} ten ps", check=False).returncode == 4


def test_whom_polkit_allows_may_manage_if_the_bus_lets_them_ask(
    box: Box, methods: list[str], tenant: Callable[..., str], sudoer: str, polkit: Callable[[str], None]
) -> None:
    polkit(ALLOW_ALL)
    found = ask(box, sudoer, methods)
    assert found is not None
    assert may(found) == set(methods)
    assert found["own"] == DENIED
    name = tenant()
    box.run(f"cd /; setpriv {sudoer} ten spawn {name}")
    assert name in box.run(f"cd /; setpriv {sudoer} ten ps").stdout
    others = {
        "--reuid=nobody --regid=nogroup --clear-groups": set(),
        "--reuid=tenement-proxy --regid=tenement-proxy --clear-groups": WORKER,
        "--reuid=tenement-api --regid=tenement-api --clear-groups": API,
    }
    for identity, expected in others.items():
        found = ask(box, identity, methods)
        assert found is not None
        assert may(found) == expected


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
