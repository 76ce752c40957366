"""A hostile tenant tries all it should not be able to do; each attack also runs unconfined, and works."""

import platform
from collections.abc import Iterator

import pytest

from .conftest import Box
from .hostile import Results, Scene, scene, targets

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of system calls are x86-64's")


@pytest.fixture(scope="module")
def scenery(box: Box) -> Iterator[Scene]:
    with scene(box) as found:
        yield found


def succeeded(results: Results) -> dict[str, str]:
    return {name: got for name, (got, _) in results.items() if got is not None}


def test_a_hostile_tenant_gets_nothing_of_others_and_of_the_host(
    scenery: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = scenery.attack()
    broken = succeeded(tried)
    for name, (got, error) in tried.items():
        print(f"{'GOT IT ' if got else 'refused'}  {name}: {got or error}")
    with capsys.disabled():
        print(f"\nattacks from inside a tenant: {len(tried)} tried, {len(tried) - len(broken)} refused")
    assert not broken


# Where the tenant's own lists keep out everybody but the proxy, root as well.
GUARDED = {
    "connect to another tenant's port",
    "connect to another tenant's port at address 0",
    "connect to another tenant's port over IPv4 in IPv6",
}
# Not to be shown in a box, whose own confinement or kernel may have none of it. For each the system call that
# a tenant's filter must not have, or None for files that a box lacks.
UNSHOWN: dict[str, str | None] = {
    "adjust the clock": "clock_adjtime",
    "load a module": "finit_module",
    "load another kernel": "kexec_load",
    "open a file by its handle": "open_by_handle_at",
    "raise its limit of open files": "setrlimit",
    "read the kernel's log device": None,
    "read the kernel's memory": None,
    "remove a module": "delete_module",
    "set disk quotas": "quotactl",
    "set the clock": "clock_settime",
    "swap to a file": "swapon",
    "take another tenant's open files": "pidfd_getfd",
    "use the processor's ports": "ioperm",
    "watch the processor's counters": "perf_event_open",
    "write to /proc/sys/kernel/core_pattern": None,
    "write to /proc/sysrq-trigger": None,
}


def test_the_attacks_are_real(scenery: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    tried = scenery.unconfined()
    refused = tried.keys() - succeeded(tried).keys()
    for name in sorted(refused):
        print(f"not shown here: {name}: {tried[name][1]}")
    with capsys.disabled():
        print(f"\nthe same attacks unconfined: {len(tried)} tried, {len(tried) - len(refused)} work")
    assert refused - GUARDED <= UNSHOWN.keys()
    assert refused >= GUARDED


def test_what_a_box_cannot_show_is_in_no_tenants_filter(scenery: Scene) -> None:
    allowed = scenery.attacker.show("SystemCallFilter")[0].split()
    assert "read" in allowed
    assert not set(UNSHOWN.values()) & set(allowed)


def test_an_app_may_do_what_apps_do(scenery: Scene) -> None:
    found = scenery.permitted()
    assert {name: error for name, (got, error) in found.items() if got is None} == {}


def test_the_internet_does_not_reach_a_tenant_that_opens_a_door_of_its_own(scenery: Scene) -> None:
    port = int(str(scenery.box.http(scenery.attacker.host, "/open").json()))
    program = (
        "import socket, sys\n"
        "for address in ('192.0.2.1', '2001:db8::1'):\n"
        "    try:\n"
        "        socket.create_connection((address, int(sys.argv[1])), 1).close()\n"
        "        print('connected')\n"
        "    except TimeoutError:\n"
        "        print('dropped')\n"
    )

    def from_outside(port: int) -> list[str]:
        command = ["ip", "netns", "exec", "outside", "python3", "-c", program, str(port)]
        return scenery.box.run(command).stdout.split()

    assert from_outside(targets.ANY_PORT) == ["connected", "connected"]
    assert from_outside(port) == ["dropped", "dropped"]
