"""What only the installed proxy can show: its sandbox, its journal entries, its memory."""

import contextlib
import hashlib
import json
import re
import socket
from collections.abc import Callable, Iterator

import pytest

from .apps import Tenant, toml
from .conftest import Box, Response

type NewTenant = Callable[..., str]

PAGES = "/srv/proxy-pages"
CONFORMANCE = "/src/tests/system/apps/conformance.py"
LARGE_BYTES = 100_000_000
ANNOUNCER, ANNOUNCED = "127.0.0.9", "203.0.113.9"


@pytest.fixture
def pages(box: Box) -> Iterator[str]:
    box.run(f"mkdir -p {PAGES} && echo '<p>No such shop' >{PAGES}/404.html && chmod -R a+rX {PAGES}")
    yield PAGES
    box.run(f"rm -r {PAGES}")


def exchange(request: bytes, source: str = "127.0.0.1") -> bytes:
    """Send bytes from an address, and read until the connection ends."""
    with socket.create_connection(("127.0.0.1", 80), timeout=10, source_address=(source, 0)) as connection:
        connection.sendall(request)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(65536):
                answer += data
    return answer


def test_a_services_own_pages_reach_browsers(box: Box, pages: str) -> None:
    box.write_config("proxy", toml("shops", error_pages=pages))
    box.run("ten config check")

    def shown(accept: str) -> bytes:
        response: Response = box.http("nobody.shops.localhost", headers={"Accept": accept})
        assert response.status == 404
        return response.body

    # Workers read them a moment after the reload.
    box.wait_for(lambda: shown("text/html") == b"<p>No such shop\n", 5)
    assert json.loads(shown("application/json"))["status"] == 404
    box.run(f"echo spare >{pages}/405.html; chmod 600 {pages}/404.html")
    check = box.run("ten config check", check=False)
    assert check.returncode != 0
    assert f"{pages}/404.html: is not for everybody" in check.stdout + check.stderr
    assert f"{pages}/405.html: is no page of the proxy" in check.stdout + check.stderr
    box.run("ten reload")
    box.wait_for(lambda: b"There is nothing at this address" in shown("text/html"), 5)


def test_announced_clients_are_known_by_their_own_address_in_the_journal(box: Box, tenant: NewTenant) -> None:
    settings = f'[settings]\naccess_log = "all"\nproxy_protocol_from = ["{ANNOUNCER}"]\n'
    box.write_config("proxy", settings + toml("announced"))
    app = Tenant(box, tenant("announced"))
    box.run(["ten", "spawn", app.name])
    request = f"GET / HTTP/1.1\r\nHost: {app.host}\r\nConnection: close\r\n\r\n".encode()
    header = f"PROXY TCP4 {ANNOUNCED} 192.0.2.1 40000 80\r\n".encode()
    # Workers follow a moment after the reload: then one that says nothing is closed.
    box.wait_for(lambda: exchange(request, ANNOUNCER) == b"", 5)
    assert b"200" in exchange(header + request, ANNOUNCER).split(b"\r\n")[0]
    assert exchange(header + request).startswith(b"HTTP/1.1 400 ")
    assert exchange(request).startswith(b"HTTP/1.1 200 ")

    def peers() -> list[str]:
        entries = box.run(f"journalctl -o json --output-fields=PEER,STATUS TENANT={app.name}").stdout
        return [json.loads(entry)["PEER"] for entry in entries.splitlines() if '"STATUS":"200"' in entry]

    box.wait_for(lambda: {ANNOUNCED, "127.0.0.1"} <= set(peers()), 5)


def test_large_bodies_leave_the_workers_memory_as_it_was(box: Box, tenant: NewTenant) -> None:
    box.write_config("proxy", f'[service.bulk]\ncommand = ["/usr/bin/python3", "-I", "{CONFORMANCE}"]\n')
    app = Tenant(box, tenant("bulk"))
    box.run(["ten", "spawn", app.name])
    units = "tenement-proxy@1 tenement-proxy@2"
    pids = box.run(f"systemctl show --value -p MainPID {units}").stdout.split()

    def memory_kb(line: str) -> list[int]:
        texts = [(box.root / "proc" / pid / "status").read_text() for pid in pids if pid != "0"]
        return [int(match[1]) for text in texts if (match := re.search(rf"{line}:\s+(\d+)", text))]

    for pid in pids:
        box.run(f"echo 5 >/proc/{pid}/clear_refs", check=False)
    before = memory_kb("VmRSS")
    body = bytes(range(256)) * (LARGE_BYTES // 256)
    answer = box.http(app.host, "/", method="POST", body=body)
    assert answer.json()["digest"] == hashlib.sha256(body).hexdigest()
    assert len(box.http(app.host, f"/bytes/{LARGE_BYTES}").body) == LARGE_BYTES
    grown_kb = [peak - rss for peak, rss in zip(memory_kb("VmHWM"), before, strict=True)]
    assert max(grown_kb) < 8 << 10, grown_kb
