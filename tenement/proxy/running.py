"""The life of a worker: it listens, looks at deadlines, and ends without losing a request.

On SIGTERM it takes no new connection (systemd holds the sockets, and the other workers go on), lets requests
in flight finish, answers the last one on each connection with `Connection: close`, closes connections that
have been idle for a while, and cuts what is left at the drain deadline.
"""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import sdnotify

from tenement.proxy.bus import ManagerBus
from tenement.proxy.pages import Pages
from tenement.proxy.settings import Settings
from tenement.proxy.worker import Worker

log = logging.getLogger(__name__)

_BACKLOG: Final = 4096


class Listener(NamedTuple):
    """A listening socket, and the scheme that is spoken on it."""

    sock: socket.socket
    scheme: bytes


async def listen(worker: Worker, listeners: Sequence[Listener]) -> list[asyncio.Server]:
    """Accept connections, until the servers are closed."""
    servers = []
    loop = asyncio.get_running_loop()
    for sock, scheme in listeners:
        _set_listener_options(sock)
        make_protocol = partial(worker.make_protocol, scheme)
        server = await loop.create_server(make_protocol, sock=sock, backlog=_BACKLOG)
        servers.append(server)
    return servers


async def sweep(worker: Worker) -> None:
    """Look at all deadlines, again and again as long as there are any, until cancelled.

    Connections that merely wait for a request are looked at seldom, and nothing at all is not looked at.
    """
    settings = worker.settings
    while True:
        if not worker.watching.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.idle_sweep_interval_s if worker.connections else None):
                    await worker.watching.wait()
        if worker.watching.is_set():
            await asyncio.sleep(settings.sweep_interval_s)
        worker.look_at_deadlines()
        if worker.is_quiet():
            worker.watching.clear()


async def drain(worker: Worker, servers: Sequence[asyncio.Server] = ()) -> None:
    """End: see the top of the module."""
    worker.draining = True
    worker.watch()
    worker.idle_timeout_s = worker.settings.drain_idle_s
    for server in servers:
        server.close()
    await worker.tls.drain()
    for client in worker.clients:
        client.drain()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(worker.settings.drain_s):
            while worker.connections:
                worker.empty.clear()
                await worker.empty.wait()
    if worker.connections:
        log.warning(
            "drain: cutting %d connections at the end of %g s", worker.connections, worker.settings.drain_s
        )
    for client in worker.clients:
        client.abort()
    await asyncio.sleep(0)
    await worker.connector.close()
    await worker.leases.close()
    worker.access.flush()
    worker.access.close()


async def run(
    listeners: Sequence[Listener],
    templates: Path,
    bus_address: str | None = None,
    counts: Path | None = None,
) -> None:
    """Work until SIGTERM or SIGINT, then drain. `bus_address` None is the system bus.

    Requests are counted in the file `counts`, or nowhere to be seen.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    notifier = sdnotify.SystemdNotifier()
    # Where systemd may not raise the limit as far as the unit wants, as in some containers, less is served.
    settings = Settings().within(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    worker = Worker(Pages(templates), settings, counts=counts)
    bus = ManagerBus(worker, address=bus_address)
    worker.use_bus(bus)
    background = [
        loop.create_task(bus.run()),
        loop.create_task(sweep(worker)),
        loop.create_task(_watchdog(notifier)),
    ]
    servers: list[asyncio.Server] = []
    try:
        notifier.notify("STATUS=Waiting for the manager's routes")
        await _either(stopped, worker.ready)
        if not stopped.is_set():
            servers = await listen(worker, listeners)
            gc.freeze()  # What is there now stays; the collector need not look at it again.
            notifier.notify("READY=1\nSTATUS=Serving")
            await stopped.wait()
        notifier.notify("STOPPING=1\nSTATUS=Draining")
        await drain(worker, servers)
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)


def _set_listener_options(sock: socket.socket) -> None:
    """Options that accepted connections inherit: no Nagle, and an end to peers that vanished without a
    word.
    """
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


async def _watchdog(notifier: sdnotify.SystemdNotifier) -> None:
    """Tell systemd that the loop turns, if it wants to know: see WatchdogSec= in systemd.service(5)."""
    interval_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 3_000_000
    while interval_s:
        await asyncio.sleep(interval_s)
        notifier.notify("WATCHDOG=1")


async def _either(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
