"""Run a worker: `python3 -m tenement.proxy`.

The listeners come from systemd (`FileDescriptorName=http` or `https`), or from `--listen` for development.
"""

import argparse
import asyncio
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Final

import uvloop

from tenement.proxy import pages
from tenement.proxy.running import Listener, run

_FIRST_FD: Final = 3


def inherited_listeners() -> list[Listener]:
    """The sockets that systemd passed, as sd_listen_fds_with_names(3) has it."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    sockets = zip(range(_FIRST_FD, _FIRST_FD + count), names, strict=False)
    schemes = ("http", "https")
    return [Listener(socket.socket(fileno=fd), name.encode()) for fd, name in sockets if name in schemes]


def opened_listener(address: str) -> Listener:
    """A socket listening on ADDR:PORT. Raises ValueError, OSError."""
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host.strip("[]"), int(port)))
    sock.listen(4096)
    return Listener(sock, b"http")


def main() -> int:
    """Parse the command line and run. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="tenement-proxy", description="A worker of tenement's proxy.")
    parser.add_argument("--listen", metavar="ADDR:PORT", action="append", default=[], help="listen here")
    parser.add_argument("--bus", metavar="ADDRESS", help="D-Bus address instead of the system bus")
    parser.add_argument(
        "--templates", metavar="DIR", type=Path, default=pages.directory(), help="error pages"
    )
    parser.add_argument("--counts", metavar="FILE", type=Path, help="count requests in this file")
    arguments = parser.parse_args()
    logging.basicConfig(
        level=os.environ.get("TENEMENT_LOG", "INFO").upper(), format="%(message)s", stream=sys.stderr
    )
    try:
        listeners = inherited_listeners() + [opened_listener(each) for each in arguments.listen]
    except (OSError, ValueError) as error:
        print(f"tenement-proxy: cannot listen: {error}", file=sys.stderr)
        return 1
    if not listeners:
        print(
            "tenement-proxy: nothing to listen on: no socket from systemd, and no --listen ADDR:PORT",
            file=sys.stderr,
        )
        return 2
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(listeners, arguments.templates, arguments.bus, arguments.counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
