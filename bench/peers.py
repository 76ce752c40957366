"""What is measured: tenement as it is installed, and its peers, each in front of the same app.

The app runs as tenant bench:app. Its firewall lets in 127.0.77.1 only, so nginx and HAProxy connect from
there, too. The Rust implementation starts the apps itself: it gets the same program on a port of its own,
without a sandbox.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from measuring import Target, children, remark

WORK = Path("/srv/bench")
TENANT = "bench:app"
HOST = "app.bench.localhost"
SECURE_HOST = "bench.test"
"""Nobody gives certificates for localhost; TLS is not offered for it."""
SOCKETS = "sockets:app"
SOCKETS_HOST = "app.sockets.localhost"
SOURCE_ADDRESS = "127.0.77.1"
READY_S = 15.0
_CERTIFICATE = WORK / "certificate.pem"
_KEY = WORK / "key.pem"

_CONFIG = f"""
[routing.hosts]
"{SECURE_HOST}" = "bench:app"

[service.bench]
command = "{WORK}/upstream"
idle_timeout = 0

[service.sockets]
command = ["/usr/bin/python3", "-I", "{WORK}/echo.py"]
idle_timeout = 0
"""

_NGINX = """
daemon off;
error_log {work}/nginx.log;
pid {work}/nginx.pid;
worker_processes 1;
events {{ worker_connections 5000; }}
http {{
    access_log off;
    keepalive_requests 10000000;
    client_max_body_size 0;
    proxy_request_buffering off;
    proxy_max_temp_file_size 0;
    client_body_temp_path {work}/nginx-body;
    proxy_temp_path {work}/nginx-proxy;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    ssl_protocols TLSv1.3;
    upstream app {{
        server {address};
        keepalive 128;
        keepalive_requests 10000000;
    }}
    server {{
        listen 127.0.0.1:8101;
        listen 127.0.0.1:8102 ssl;
        location / {{
            proxy_pass http://app;
            proxy_bind {source};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme;
        }}
    }}
    server {{
        listen 127.0.0.1:8101;
        server_name app.sockets.localhost;
        location / {{
            proxy_pass http://{sockets};
            proxy_bind {source};
            proxy_http_version 1.1;
            proxy_set_header Connection Upgrade;
            proxy_set_header Upgrade websocket;
            proxy_set_header Host $http_host;
        }}
    }}
}}
"""

_HAPROXY = """
global
    nbthread 1
    maxconn 5000
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
    http-reuse safe
    option forwardfor
frontend in
    bind 127.0.0.1:8103
    http-request set-header X-Forwarded-Proto http
    default_backend app
backend app
    source {source}
    server app {address}
"""

_RUST = f"""
[service.bench]
command = "{WORK}/upstream"
health = "/"
isolation = "process"
"""


def prepare() -> None:
    """Build the app, make a certificate, and tell tenement of both."""
    here = Path(__file__).parent
    # What a run before this one left.
    tenants = (TENANT, SOCKETS)
    subprocess.run(["ten", "rm", "--purge", "-y", *tenants], check=False, capture_output=True)
    WORK.mkdir(exist_ok=True)
    WORK.chmod(0o755)
    subprocess.run(["gcc", "-O2", "-o", WORK / "upstream", here / "upstream.c"], check=True)
    shutil.copy(here / "echo.py", WORK)
    Path("/etc/tenement/tenement.d/bench.toml").write_text(_CONFIG)
    _run("chown", "root:tenement", "/etc/tenement/tenement.d/bench.toml")
    _run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
        *("-keyout", str(_KEY), "-out", str(_CERTIFICATE), "-days", "2", "-subj", f"/CN={SECURE_HOST}"),
        *("-addext", f"subjectAltName=DNS:{SECURE_HOST}"),
    )
    hosts = Path("/etc/hosts")
    if SECURE_HOST not in hosts.read_text():
        hosts.write_text(f"{hosts.read_text()}127.0.0.1 {SECURE_HOST}\n")
    _run("ten", "reload")
    _run("ten", "spawn", *tenants)


def tenement(workers: int = 1, *, fresh: bool = False) -> Target:
    """The first worker alone, or the first two. The others are stopped meanwhile. `fresh`: started anew."""
    units = [f"tenement-proxy@{number}.service" for number in range(1, (os.cpu_count() or 1) + 1)]
    _run("systemctl", "restart" if fresh else "start", *units[:workers])
    if units[workers:]:
        _run("systemctl", "stop", *units[workers:])
    pids = tuple(int(_run("systemctl", "show", "-P", "MainPID", unit)) for unit in units[:workers])
    return Target("tenement", 80, HOST, pids)


def tenement_tls(pids: tuple[int, ...]) -> Target | None:
    """The same by HTTPS, with a certificate of the operator's own; None if this tenement serves none."""
    commands = [
        # The authority is never heard of again: nobody listens there.
        [
            "enable",
            "--email",
            "bench@localhost",
            "--acme-server",
            "https://127.0.0.1:1/directory",
            "--no-wait",
        ],
        ["add", "bench", str(_CERTIFICATE), str(_KEY)],
    ]
    for command in commands:
        try:
            _run("ten", "tls", *command)
        except subprocess.CalledProcessError as error:
            remark(f"no TLS: {(error.stderr or error.stdout).strip()}")
            return None
    return Target("tenement", 443, SECURE_HOST, pids, secure=True)


@contextlib.contextmanager
def nginx(address: str, core: str) -> Iterator[Target]:
    """One worker of nginx."""
    settings = {"work": WORK, "certificate": _CERTIFICATE, "key": _KEY, "source": SOURCE_ADDRESS}
    settings |= {"address": address, "sockets": address_of(SOCKETS)}
    (WORK / "nginx.conf").write_text(_NGINX.format(**settings))
    with _started(["taskset", "-c", core, "nginx", "-c", f"{WORK}/nginx.conf"], 8101) as pid:
        yield Target("nginx", 8101, HOST, children(pid))


def by_https(nginx: Target) -> Target:
    """The same nginx by HTTPS, with the certificate that tenement has."""
    return Target("nginx", 8102, SECURE_HOST, nginx.pids, secure=True)


@contextlib.contextmanager
def haproxy(address: str, core: str) -> Iterator[Target]:
    """HAProxy with one thread."""
    (WORK / "haproxy.cfg").write_text(_HAPROXY.format(address=address, source=SOURCE_ADDRESS))
    command = ["taskset", "-c", core, "haproxy", "-db", "-q", "-f", f"{WORK}/haproxy.cfg"]
    with _started(command, 8103) as pid:
        yield Target("haproxy", 8103, HOST, (pid,))


@contextlib.contextmanager
def rust(core: str) -> Iterator[Target | None]:
    """tenement 0.2.2 in Rust; None if it cannot be started."""
    work = WORK / "rust"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    (work / "tenement.toml").write_text(_RUST)
    program = "/opt/rust-peer/bin/ten"
    if not Path(program).exists():
        remark("the Rust peer is not here: tools/box run --layer bench has it")
        yield None
        return
    with _started(["taskset", "-c", core, program, "serve", "--port", "8104"], 8104, cwd=work) as pid:
        target = Target("rust", 8104, HOST, (pid,))
        _wait(lambda: _answers(target), "the Rust peer does not answer")
        yield target


def address_of(tenant: str) -> str:
    """Where a tenant's app listens."""
    (status,) = json.loads(_run("ten", "status", "--json", tenant))
    return str(status["address"])


def pids_of(tenant: str) -> tuple[int, ...]:
    """The main process of a tenant's app."""
    service, _, id_ = tenant.partition(":")
    return (int(_run("systemctl", "show", "-P", "MainPID", f"tenement-{service}@{id_}.service")),)


def _answers(target: Target) -> bool:
    command = ["curl", "-s", "-o", "/dev/null", "-m", "2", "-w", "%{http_code}", target.origin]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout == "200"


@contextlib.contextmanager
def _started(command: Sequence[str], port: int, cwd: Path = WORK) -> Iterator[int]:
    """Run a server until the end of the block, from when it listens; gives its process id."""
    log = (cwd / "server.log").open("ab")
    with log, subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log, start_new_session=True) as process:
        try:
            _wait(lambda: _listens(port), f"{command} does not listen on port {port}")
            yield process.pid
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _wait(condition: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + READY_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(complaint)
        time.sleep(0.02)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
