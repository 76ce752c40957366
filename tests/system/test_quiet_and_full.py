"""What the machine may lack or do while tenants sleep: a full disk, and nothing at all."""

import time
from collections.abc import Callable

from .apps import Tenant, toml
from .conftest import Box

type NewTenant = Callable[..., str]


def test_a_full_disk_stops_no_tenant_and_is_told_to_the_operator(box: Box, tenant: NewTenant) -> None:
    """The registry cannot be written: what exists goes on sleeping and waking, what is new is refused."""
    box.write_config("h7", toml("full", idle_timeout=0.1))
    app, new = Tenant(box, tenant("full")), Tenant(box, tenant("full"))
    box.run(["ten", "spawn", app.name])
    directory = "/var/lib/tenement-manager"
    box.run("systemctl stop tenement-manager")
    size = int(box.run(f"du -sk --apparent-size {directory}").stdout.split()[0])
    box.run(
        f"cp -a {directory} /run/registry-copy"
        f" && mount -t tmpfs -o size={size + 256}k,mode=0700 tmpfs {directory}"
        f" && cp -a /run/registry-copy/. {directory} && systemctl start tenement-manager"
    )
    try:
        box.run(f"dd if=/dev/zero of={directory}/filler bs=4k 2>/dev/null; true")
        for _ in range(3):
            assert app.get().count == 1
            app.wait("asleep", "armed")
        refused = box.run(["ten", "spawn", new.name], check=False)
        assert refused.returncode != 0
        assert "disk is full" in refused.stderr, refused.stderr
        assert box.run(["ten", "disable", app.name], check=False).returncode != 0
        assert app.get().count >= 1, "disabled, though that could not be kept"
        for how in ("kill --signal=KILL", "stop", "start"):
            box.run(f"systemctl {how} tenement-manager")
            box.run(f"dd if=/dev/zero of={directory}/more bs=4k 2>/dev/null; true")
        assert app.get().count >= 1, "and a manager starts on a full disk"
        box.run(f"rm {directory}/filler {directory}/more")
        box.run(["ten", "spawn", new.name])
        assert new.get().count == 1
        box.run("systemctl restart tenement-manager")
        assert app.get().count >= 1
        assert new.get().count >= 1
    finally:
        box.run(
            f"systemctl stop tenement-manager; rm -rf /run/registry-copy {directory}/filler {directory}/more;"
            f" cp -a {directory} /run/registry-copy; umount {directory};"
            f" cp -a /run/registry-copy/. {directory}; rm -rf /run/registry-copy;"
            " systemctl start tenement-manager"
        )


def test_nobody_wakes_up_while_nothing_happens(box: Box, tenant: NewTenant) -> None:
    """Voluntary context switches of manager and workers over some seconds: only the watchdog's."""
    box.write_config("h7", toml("still"))
    app = Tenant(box, tenant("still"))
    box.run(["ten", "spawn", app.name])
    app.get()
    box.run(["ten", "stop", app.name])
    app.wait("armed")
    units = ["tenement-manager", "tenement-proxy@1", "tenement-proxy@2"]
    pids = {
        unit: box.run(["systemctl", "show", "--value", "-p", "MainPID", unit]).stdout.strip()
        for unit in units
    }

    def switches() -> dict[str, int]:
        found = {}
        for unit, pid in pids.items():
            threads = box.run(f"cat /proc/{pid}/task/*/status").stdout
            lines = [line for line in threads.splitlines() if line.startswith("voluntary_ctxt_switches")]
            found[unit] = sum(int(line.split()[1]) for line in lines)
        return found

    # Connections and leases of the request before are given up within these seconds.
    time.sleep(4)
    before = switches()
    time.sleep(5)
    after = switches()
    woke = {unit: after[unit] - before[unit] for unit in units}
    assert max(woke.values()) <= 3, woke
