"""The sandbox as systemd has it: its score, the runtimes that work in it, limits, secrets, and listeners."""

import json
import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .apps import Tenant, toml
from .conftest import Box
from .hostile import APP

type NewTenant = Callable[..., str]

EXAMPLES = Path(__file__).parents[2] / "examples"


def score(box: Box, unit: str) -> float:
    """The exposure that `systemd-analyze security` finds, from 0 to 10."""
    said = box.run(["systemd-analyze", "security", "--no-pager", unit]).stdout
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert found is not None
    return float(found[1])


@pytest.mark.parametrize(
    ("unit", "most"),
    [
        ("tenement-proxy@1.service", 1.5),
        ("tenement-api.service", 1.5),
        ("tenement-log-reader@1.service", 1.5),
        ("tenement-network-filter.service", 1.5),
        ("tenement-manager.service", 3.5),
    ],
)
def test_the_services_of_tenement_are_confined(box: Box, unit: str, most: float) -> None:
    assert score(box, unit) <= most


# Go's net/http; it insists on TLS, and tells so whoever comes without.
GO = """
[service.go-app]
command = ["/bin/sh", "-c", "sed s/PORT/$PORT/ /srv/go-app/config.json >config && exec pebble -config config"]
memory_deny_write_execute = true
"""
GO_CONFIG = {
    "pebble": {
        "listenAddress": "127.0.0.1:PORT",
        "managementListenAddress": "",
        "certificate": "/srv/go-app/cert.pem",
        "privateKey": "/srv/go-app/key.pem",
        "httpPort": 5002,
        "tlsPort": 5001,
    }
}


def node(box: Box) -> tuple[str, str]:
    box.run("rm -rf /srv/counter && cp -r /src/examples/node /srv/counter")
    return "counter", (EXAMPLES / "node" / "tenement.toml").read_text()


def go(box: Box) -> tuple[str, str]:
    box.run("mkdir -p /srv/go-app && cat >/srv/go-app/config.json", input=json.dumps(GO_CONFIG))
    box.run(
        "cd /srv/go-app && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=go "
        "-keyout key.pem -out cert.pem 2>/dev/null && chmod 644 key.pem"
    )
    return "go-app", GO


def python(box: Box) -> tuple[str, str]:
    return "py-app", toml("py-app", memory_deny_write_execute=True)


def unix_socket(box: Box) -> tuple[str, str]:
    return "socket-app", toml("socket-app", listen="socket", network="none")


@pytest.mark.parametrize(
    ("app", "status"), [(python, 200), (node, 200), (go, 400), (unix_socket, 200)], ids=lambda value: None
)
def test_every_runtime_works_in_a_sandbox_that_scores_well(
    box: Box, tenant: NewTenant, app: Callable[[Box], tuple[str, str]], status: int
) -> None:
    service, text = app(box)
    box.write_config(service, text)
    found = Tenant(box, tenant(service))
    box.run(["ten", "spawn", found.name])
    answer = box.http(found.host)
    assert answer.status == status, answer
    if status == 400:
        assert b"HTTP request to an HTTPS server" in answer.body
    assert score(box, found.unit) <= 1.2


def test_limits_reach_the_unit(box: Box, tenant: NewTenant) -> None:
    text = toml(
        "limited", memory_limit_mb=64, memory_high_mb=48, cpu_shares=30, cpu_quota=150, tasks_max=40,
        io_weight=20, open_files=128, storage_quota_mb=16,
    )  # fmt: skip
    box.write_config("limited", text)
    found = Tenant(box, tenant("limited"))
    box.run(["ten", "spawn", found.name])
    expected = {
        "MemoryMax": str(64 << 20),
        "MemoryHigh": str(48 << 20),
        "CPUWeight": "30",
        "CPUQuotaPerSecUSec": "1.500000s",
        "TasksMax": "40",
        "LimitNPROC": "40",
        "IOWeight": "20",
        "LimitNOFILE": "128",
        "LimitFSIZE": str(16 << 20),
    }
    assert dict(zip(expected, found.show(*expected), strict=True)) == expected
    limits = box.run(f"cat /proc/{found.show('MainPID')[0]}/limits").stdout
    assert re.search(r"Max open files +128 +128 ", limits)
    assert re.search(r"Max processes +40 +40 ", limits)


def test_credentials_arrive_and_are_nowhere_else(box: Box, tenant: NewTenant) -> None:
    plain, sealed = "plain-secret-5137", "sealed-secret-8842"
    box.run("umask 077; mkdir -p /etc/tenement-test; cat >/etc/tenement-test/plain", input=plain)
    box.write_config("vault", toml("vault") + credentials(box, sealed))
    found = Tenant(box, tenant("vault"))
    box.run(["ten", "spawn", found.name])
    pid = found.show("MainPID")[0]
    inside = f"nsenter -t {pid} -m --"
    directory = f"/run/credentials/{found.unit}"
    assert box.run(f"{inside} cat {directory}/plain").stdout == plain
    assert box.run(f"{inside} cat {directory}/sealed {directory}/inline").stdout == sealed * 2
    assert f"CREDENTIALS_DIRECTORY={directory}" in box.run(f"cat /proc/{pid}/environ | tr '\\0' '\\n'").stdout
    places = {
        "environment": f"cat /proc/{pid}/environ",
        "command line": f"cat /proc/{pid}/cmdline",
        "systemctl": f"systemctl show {found.unit}",
        "logs": "journalctl -b --no-pager -o export",
        "configuration": "ten config show; ten config show --json",
        "status": f"ten status --json {found.name}; ten ps --json",
        "registry": "cat /var/lib/tenement-manager/registry.db*",
    }
    for place, command in places.items():
        shown = box.run(command).stdout
        assert shown, place
        assert plain not in shown and sealed not in shown, place


def credentials(box: Box, secret: str) -> str:
    """The table of credentials with the secret in both ways of encryption."""
    sealed = box.run("systemd-creds encrypt --with-key=host --name=sealed - -", input=secret).stdout
    inline = box.run("systemd-creds encrypt --with-key=host --name=inline - -", input=secret).stdout
    box.run("umask 077; cat >/etc/tenement-test/sealed", input=sealed)
    return (
        '[service.vault.credentials]\nplain = "/etc/tenement-test/plain"\n'
        'sealed = { encrypted_path = "/etc/tenement-test/sealed" }\n'
        f'inline = {{ encrypted_value = "{"".join(inline.split())}" }}\n'
    )


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
def test_an_app_that_listens_for_everybody_is_refused_with_the_remedy(
    box: Box, tenant: NewTenant, address: str
) -> None:
    box.write_config("wide", listening("wide", ADDRESS=address))
    failed = box.run(["ten", "spawn", tenant("wide")], check=False, timeout_s=30)
    assert failed.returncode
    assert "make it listen on $HOST (127.0.0.1)" in failed.stderr, failed.stderr


def test_an_app_does_not_pass_for_another_whose_port_it_holds(box: Box, tenant: NewTenant) -> None:
    # The thief binds the ports that the next tenants would get, before they do.
    box.write_config("thief", listening("thief", STEAL="400"))
    box.write_config("mark", listening("mark"))
    thief, mark = Tenant(box, tenant("thief")), Tenant(box, tenant("mark"))
    box.run(["ten", "spawn", thief.name])
    box.run(["ten", "spawn", mark.name])
    assert box.http(mark.host).json() == mark.name
    stolen = box.run(f"ss -Hltnp | grep pid={thief.show('MainPID')[0]},").stdout
    assert stolen.count("\n") == 401
    assert f":{port_of(mark)} " not in stolen


def listening(service: str, **env: str) -> str:
    """Configuration of a service that runs the hostile app."""
    lines = [f"[service.{service}]", f'command = ["/usr/bin/python3", "-IS", "{APP}"]']
    lines += ["startup_timeout = 5", "max_restarts = 1", f"[service.{service}.env]"]
    return "\n".join([*lines, *(f'{key} = "{value}"' for key, value in env.items())]) + "\n"


def test_a_port_that_somebody_else_took_meanwhile_fails_the_start(box: Box, tenant: NewTenant) -> None:
    box.write_config("late-app", toml("late-app", startup_timeout=10, env={"START_DELAY_S": 30}))
    found = Tenant(box, tenant("late-app"))
    with ThreadPoolExecutor(1) as pool:
        spawned = pool.submit(lambda: box.run(["ten", "spawn", found.name], check=False))
        port = int(box.wait_for(lambda: port_of(found), 10))
        with socket.create_server(("127.0.0.1", port)):
            failed = spawned.result()
    assert failed.returncode
    assert f"its port {port} is held by a process of another user" in failed.stderr


def port_of(tenant: Tenant) -> str:
    """The port that the unit was told; "" if there is no unit yet."""
    words = tenant.show("Environment")[0].split()
    return next((word.removeprefix("PORT=") for word in words if word.startswith("PORT=")), "")


def test_a_service_may_change_the_way_it_listens(box: Box, tenant: NewTenant) -> None:
    found = Tenant(box, tenant("changing"))
    for listen in ("socket", "port", "fd", "port"):
        box.write_config("changing", toml("changing", listen=listen))
        box.run(["ten", "spawn", found.name] if listen == "socket" else ["ten", "restart", found.name])
        assert found.get().tenant == found.name
