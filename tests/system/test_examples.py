"""Each example does in the box what its text promises, with the configuration that lies beside it."""

import base64
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Box

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def set_up(box: Box, example: str, service: str) -> None:
    """Copy an example to where its configuration wants it, and configure it."""
    box.run(f"rm -rf /srv/{service} && cp -r /src/examples/{example} /srv/{service}")
    box.write_config(service, (EXAMPLES / example / "tenement.toml").read_text())


def host_of(name: str) -> str:
    service, _, id = name.partition(":")
    return f"{id}.{service}.localhost"


@pytest.mark.parametrize("listen", ["port", "socket", "fd"])
def test_notes_are_kept_however_it_listens(box: Box, tenant: Callable[..., str], listen: str) -> None:
    text = (EXAMPLES / "notes" / "tenement.toml").read_text()
    text = re.sub(r"\[settings\]\n.*\n", "", text).replace("service.notes", f"service.notes-{listen}")
    box.write_config(f"notes-{listen}", f'{text}listen = "{listen}"\n')
    name = tenant(f"notes-{listen}")
    host = host_of(name)
    box.run(["ten", "spawn", name])
    assert box.http(host, "/notes", "POST", body="plain").status == 201
    json = {"Content-Type": "application/json"}
    assert box.http(host, "/notes", "POST", json, body='{"text": "from \\"JSON\\""}').status == 201
    assert box.http(host, "/notes", "POST", json, body='{"text": 1}').status == 400
    assert box.http(host, "/nothing").status == 404
    box.run(["ten", "stop", name])
    answer = box.http(host, "/notes")
    assert answer.json() == [{"id": 1, "text": "plain"}, {"id": 2, "text": 'from "JSON"'}]


def test_the_node_app_counts_visits_over_a_restart(box: Box, tenant: Callable[..., str]) -> None:
    set_up(box, "node", "counter")
    name = tenant("counter")
    box.run(["ten", "spawn", name])
    assert box.http(host_of(name)).json() == {"tenant": name, "visits": 1}
    box.run(["ten", "restart", name])
    assert box.http(host_of(name)).json() == {"tenant": name, "visits": 2}


def test_the_unix_socket_app_tells_the_time_without_a_network(box: Box, tenant: Callable[..., str]) -> None:
    set_up(box, "unix-socket", "clock")
    name = tenant("clock")
    box.run(["ten", "spawn", name])
    assert re.fullmatch(rb"\d\d:\d\d:\d\d\n", box.http(host_of(name)).body)


def test_the_websocket_app_sends_back_what_it_gets(box: Box, tenant: Callable[..., str]) -> None:
    set_up(box, "websocket", "echo")
    name = tenant("echo")
    box.run(["ten", "spawn", name])
    key = base64.b64encode(os.urandom(16)).decode()
    handshake = (
        f"GET / HTTP/1.1\r\nHost: {host_of(name)}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", 80), timeout=10) as client, client.makefile("rb") as stream:
        client.sendall(handshake.encode())
        assert b" 101 " in stream.readline()
        while stream.readline().strip():
            pass
        # A masked text frame, whose mask of zeros leaves the text as it is; then a close.
        client.sendall(b"\x81\x85\0\0\0\0hello")
        assert stream.read(7) == b"\x81\x05hello"
        client.sendall(b"\x88\x82\0\0\0\0\x03\xe8")
        assert stream.read() == b"\x88\x02\x03\xe8"
