"""Hostile tenants, their victims, and a world around them: how tests set them up in the box."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from ..apps import Tenant
from ..conftest import Box
from . import targets

APP: Final = "/src/tests/system/hostile/app.py"
ATTACKS: Final = "/src/tests/system/hostile/attacks.py"
TARGETS: Final = "/src/tests/system/hostile/targets.py"

type Results = dict[str, list[str | None]]
"""For each attack by name: what it got hold of, or None, and the error."""

_CONFIG: Final = """
[service.{name}]
command = ["/usr/bin/python3", "-IS", "{program}"]
listen = "{listen}"
idle_timeout = 0
tasks_max = 64
open_files = 256
[service.{name}.credentials]
token = "/root/hostile-test"
"""
# Another machine: what is there, tenants may reach; the metadata service of clouds is there too.
_OUTSIDE: Final = """
ip netns add outside
ip link add out0 type veth peer name in0 netns outside
ip addr add 192.0.2.1/24 dev out0
ip addr add 2001:db8::1/64 dev out0 nodad
ip link set out0 up
ip -n outside addr add 192.0.2.2/24 dev in0
ip -n outside addr add 2001:db8::2/64 dev in0 nodad
ip -n outside link set in0 up
ip -n outside link set lo up
ip -n outside addr add 169.254.169.254/32 dev lo
ip -n outside route add default via 192.0.2.1
ip route add 169.254.169.254/32 via 192.0.2.2
"""
_SECRETS: Final = ("/root/hostile-test", "/home/hostile-test", "/var/lib/tenement-tls/hostile-test.key")


@dataclass(frozen=True, slots=True)
class Scene:
    """An attacker, its victims of the same service and of others, and where everything is."""

    box: Box
    attacker: Tenant
    victim: Tenant
    targets: dict[str, Any]

    def attack(self, tenant: Tenant | None = None) -> Results:
        """Have a tenant try everything."""
        return self._ask(tenant or self.attacker, "/attack", self.targets)

    def permitted(self, tenant: Tenant | None = None) -> Results:
        """Have a tenant try what it may do."""
        return self._ask(tenant or self.attacker, "/permitted", self.targets)

    def unconfined(self, *names: str) -> Results:
        """Try attacks as root without a sandbox: this shows that they are real.

        As a service: a shell in the box may do more, it is outside of nspawn's filter of system calls.
        """
        command = [
            "systemd-run",
            "-q",
            "--pipe",
            "-p",
            "LimitNOFILE=8192",
            "--working-directory=/var/lib/private",
        ]
        command = [*command, "/usr/bin/python3", "-IS", ATTACKS, *names]
        return dict(json.loads(self.box.run(command, input=json.dumps(self.targets)).stdout))

    def _ask(self, tenant: Tenant, path: str, body: object) -> Results:
        answer = self.box.http(tenant.host, path, "POST", body=json.dumps(body), timeout_s=60)
        assert answer.status == 200, answer
        return dict(json.loads(answer.body))


@contextmanager
def scene(box: Box) -> Iterator[Scene]:
    """Set the scene, and clear it away."""
    services = {"hostile": "port", "hostile-socket": "socket", "hostile-fd": "fd"}
    text = "".join(_CONFIG.format(name=name, listen=listen, program=APP) for name, listen in services.items())
    tenants = [Tenant(box, f"{name}:{id_}") for name in services for id_ in ("mallory", "victim")]
    try:
        box.run(f"set -e\n{_OUTSIDE}")
        box.run(f"set -e\nfor path in {' '.join(_SECRETS)}; do echo secret >$path; chmod 600 $path; done")
        for where, prefix in (("host", ""), ("outside", "ip netns exec outside ")):
            box.run(
                f"systemd-run -q --collect --service-type=notify --unit=hostile-{where} "
                f"{prefix}/usr/bin/python3 -IS {TARGETS} {where}"
            )
        box.write_config("hostile", text, keep=True)
        box.run(["ten", "spawn", *(tenant.name for tenant in tenants)], timeout_s=60)
        attacker, victim, _, socket_victim, _, fd_victim = tenants
        yield Scene(box, attacker, victim, _targets(victim, socket_victim, fd_victim))
    finally:
        box.run(["ten", "rm", "--purge", "-y", *(tenant.name for tenant in tenants)], check=False)
        box.run("rm -f /etc/tenement/tenement.d/hostile.toml; ten reload", check=False)
        box.run(
            "systemctl stop hostile-host hostile-outside; ip netns del outside; ip link del out0", check=False
        )
        box.run(f"rm -f {' '.join(_SECRETS)} /run/host-service.sock", check=False)


def _targets(victim: Tenant, socket_victim: Tenant, fd_victim: Tenant) -> dict[str, Any]:
    pid, uid, environment = victim.show("MainPID", "UID", "Environment")
    port = next(word for word in environment.split() if word.startswith("PORT=")).removeprefix("PORT=")
    paths = {
        f"{kind}_path": next(
            word for word in tenant.show("Environment")[0].split() if word.startswith("SOCKET_PATH=")
        ).removeprefix("SOCKET_PATH=")
        for kind, tenant in (("socket", socket_victim),)
    }
    user = fd_victim.show("User")[0]
    data = f"tenement/{victim.service}/{victim.id}/secret"
    return paths | {
        "fd_path": f"/run/tenement/sockets/{user}/http.sock",
        "victim_id": victim.id,
        "victim_unit": victim.unit,
        "victim_port": int(port),
        "victim_abstract": f"abstract-of-{victim.name}",
        "pid": int(pid),
        "uid": int(uid),
        "data_files": [f"/var/lib/private/{data}", f"/var/lib/{data}", f"../{victim.id}/secret"],
        "loopback_port": targets.LOOPBACK_PORT,
        "loopback6_port": targets.LOOPBACK6_PORT,
        "any_port": targets.ANY_PORT,
        "udp_port": targets.UDP_PORT,
        "http_port": 80,
        "metadata_port": targets.METADATA_PORT,
        "outside_port": targets.OUTSIDE_PORT,
        "outside_udp_port": targets.UDP_PORT,
    }
