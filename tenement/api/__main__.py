"""Serve the HTTP API: `python3 -m tenement.api`, on the socket that systemd passes."""

import asyncio
import logging
import os
import signal
import socket
import sys
from typing import Final

import sdnotify
from aiohttp import web

from tenement.api import application
from tenement.api.manager import Manager

_FIRST_FD: Final = 3
_DRAIN_S: Final = 5.0


def listeners() -> list[socket.socket]:
    """The sockets that systemd passed. See sd_listen_fds(3)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    return [socket.socket(fileno=fd) for fd in range(_FIRST_FD, _FIRST_FD + count)]


async def serve(sockets: list[socket.socket]) -> None:
    """Serve until SIGTERM."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    # The proxy holds connections open and has its own limits on what is in flight.
    runner = web.AppRunner(
        application.make(Manager()), access_log=None, keepalive_timeout=120.0, handler_cancellation=True
    )
    await runner.setup()
    try:
        for sock in sockets:
            await web.SockSite(runner, sock, shutdown_timeout=_DRAIN_S).start()
        notifier = sdnotify.SystemdNotifier()
        notifier.notify("READY=1")
        await stopped.wait()
        notifier.notify("STOPPING=1")
    finally:
        await runner.cleanup()


def main() -> int:
    """Serve; gives the exit status."""
    logging.basicConfig(
        level=os.environ.get("TENEMENT_LOG", "INFO").upper(), format="%(message)s", stream=sys.stderr
    )
    logging.getLogger("dbus_fast").setLevel(logging.WARNING)
    sockets = listeners()
    if not sockets:
        print("tenement-api: nothing to listen on: start tenement-api.socket", file=sys.stderr)
        return 2
    asyncio.run(serve(sockets))
    return 0


if __name__ == "__main__":
    sys.exit(main())
