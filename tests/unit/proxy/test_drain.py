"""The end of a worker: nothing in flight is lost, and it ends in time."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from time import monotonic

from tenement.proxy.running import drain
from tests.unit.proxy.harness import Conversation, Site, at_a_site, eventually, fields, get, ok, replies

ROOT = Path(__file__).parents[3]

# What systemd does: descriptor 3, and the process's own id in LISTEN_PID.
START = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http"}
os.execv(sys.executable, [sys.executable, "-m", "tenement.proxy", "--bus", "unix:path=/nonexistent"])
"""


@at_a_site(drain_s=5)
async def test_a_request_in_flight_is_finished_and_its_connection_told_to_close(here: Site):
    go = asyncio.Event()

    async def script(app: Conversation) -> None:
        await app.head()
        await go.wait()
        app.send(ok())
        await app.rest()

    await here.app(script)
    client = await here.client()
    client.send(get())
    await eventually(lambda: here.apps[0].connections == 1)
    draining = asyncio.create_task(drain(here.worker, here.servers))
    await eventually(lambda: here.worker.draining)
    go.set()
    head, body = await client.answer()
    assert fields(head, b"connection") == [b"close"]
    assert body == b"hello"
    assert await client.rest() == b""
    await asyncio.wait_for(draining, 1)
    assert here.manager.released == [("notes:alice", 1)]


@at_a_site(drain_s=5, drain_idle_s=1)
async def test_connections_that_have_been_idle_are_closed_at_once(here: Site):
    await here.app(replies(ok()))
    client = await here.client()
    client.send(get())
    await client.answer()
    await asyncio.sleep(1.1)
    began = monotonic()
    await asyncio.wait_for(drain(here.worker, here.servers), 2)
    assert monotonic() - began < 0.9
    assert await client.rest() == b""


@at_a_site(drain_s=5, drain_idle_s=3)
async def test_a_request_that_was_on_its_way_when_the_drain_began_is_answered(here: Site):
    await here.app(replies(ok()))
    client = await here.client()
    client.send(get())
    await client.answer()
    draining = asyncio.create_task(drain(here.worker, here.servers))
    await eventually(lambda: here.worker.draining)
    client.send(get())
    head, body = await client.answer()
    assert body == b"hello"
    assert fields(head, b"connection") == [b"close"]
    await asyncio.wait_for(draining, 2)


@at_a_site(drain_s=0.2)
async def test_what_is_left_at_the_deadline_is_cut(here: Site):
    async def script(app: Conversation) -> None:
        await app.head()
        await app.rest()

    await here.app(script)
    client = await here.client()
    client.send(get())
    await eventually(lambda: here.apps[0].connections == 1)
    await asyncio.wait_for(drain(here.worker, here.servers), 2)
    assert await client.rest() == b""


@at_a_site()
async def test_a_revoked_lease_finishes_what_is_in_flight_and_new_requests_wait_for_a_new_one(here: Site):
    go = asyncio.Event()

    async def script(app: Conversation) -> None:
        await app.head()
        await go.wait()
        app.send(ok(b"old"))
        await app.rest()

    await here.app(script)
    first = await here.client()
    first.send(get())
    await eventually(lambda: here.apps[0].connections == 1)
    here.worker.revoked("notes", "alice", 1, "deploy")
    assert here.manager.released == []
    await here.app(replies(ok(b"new")))
    here.manager.generation = 2
    second = await here.client()
    second.send(get())
    assert (await second.answer())[1] == b"new"
    go.set()
    assert (await first.answer())[1] == b"old"
    await eventually(lambda: ("notes:alice", 1) in here.manager.released)


@at_a_site()
async def test_a_request_past_the_drain_timeout_of_its_service_is_cut(here: Site):
    here.policy(drain_timeout_s=0.1)

    async def script(app: Conversation) -> None:
        await app.head()
        app.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
        await app.rest()

    await here.app(script)
    client = await here.client()
    client.send(get())
    await client.head()
    here.worker.revoked("notes", "alice", 1, "stop")
    assert await client.rest() == b"part"
    await eventually(lambda: here.manager.released == [("notes:alice", 1)])


def test_the_process_takes_systemds_sockets_and_ends_on_sigterm():
    """Without a bus it waits for routes; the listener that was passed stays open all the while."""
    listener = socket.create_server(("127.0.0.1", 0))
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    name = f"tenement-test-{os.getpid()}"
    notify.bind("\0" + name)
    notify.settimeout(10)
    os.set_inheritable(listener.fileno(), True)
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(listener.fileno())],
        env=os.environ | {"NOTIFY_SOCKET": f"@{name}", "PYTHONPATH": str(ROOT)},
        close_fds=False,
        stderr=subprocess.PIPE,
    )
    try:
        assert notify.recv(1000).startswith(b"STATUS=Waiting")
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(timeout=10) == 0
        assert time.monotonic() - began < 5
        socket.create_connection(listener.getsockname()).close()
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
        notify.close()
        listener.close()
