#!/usr/bin/python3 -IS
"""The app of hostile tenants and of their victims: it has secrets of its own, and attacks when asked to."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

# Python was told to trust no directory but its own.
sys.path.insert(0, os.path.dirname(__file__))

from attacks import Attack, Targets, run, tcp, udp, unix, write

# What any app may do, and must be able to

PERMITTED: Final[dict[str, Attack]] = {
    "write to its data directory": lambda to: write(f"{os.environ['DATA_DIR']}/new"),
    "write to /tmp": lambda to: write("/tmp/new"),
    "use shared memory": lambda to: write("/dev/shm/new"),
    "write to the log": lambda to: unix("/dev/log", socket.SOCK_DGRAM),
    "connect to the internet": lambda to: tcp("192.0.2.2", to["outside_port"]),
    "connect to the internet over IPv6": lambda to: tcp("2001:db8::2", to["outside_port"]),
    "ask over UDP": lambda to: udp("192.0.2.2", to["outside_udp_port"]),
    "start a program": lambda to: subprocess.check_output(["/bin/echo", "started"]).decode(),
    "use abstract sockets of its own": lambda to: unix(f"\0{own_abstract()}"),
    "find the name of its user": lambda to: subprocess.check_output(["/usr/bin/id", "-un"]).decode(),
}


def permitted(targets: Targets) -> dict[str, list[str | None]]:
    """Try what an app may do."""
    results: dict[str, list[str | None]] = {}
    for name, do in PERMITTED.items():
        try:
            results[name] = [str(do(targets)), None]
        except (OSError, subprocess.CalledProcessError) as error:
            results[name] = [None, str(error)]
    return results


# The app of a tenant


def own_abstract() -> str:
    return f"abstract-of-{os.environ['TENANT']}"


def own_things() -> list[socket.socket]:
    """What a victim has to lose."""
    id_ = os.environ["INSTANCE_ID"]
    secret = f"secret of {id_}"
    for path in (f"{os.environ['DATA_DIR']}/secret", f"/tmp/secret-{id_}", f"/dev/shm/secret-{id_}"):
        Path(path).write_text(secret)
    print(f"log of {id_}", flush=True)
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0{own_abstract()}")
    abstract.listen()
    return [abstract]


STOLEN: Final[list[socket.socket]] = []
"""Ports that other tenants would get next."""


def listener() -> socket.socket:
    if "LISTEN_FDS" in os.environ:
        return socket.socket(fileno=3)
    if path := os.environ.get("SOCKET_PATH"):
        made = socket.socket(socket.AF_UNIX)
        made.bind(path)
    else:
        address = os.environ.get("ADDRESS", "127.0.0.1")
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((address, int(os.environ["PORT"])))
    made.listen(16)
    for stolen in range(int(os.environ.get("STEAL", 0))):
        STOLEN.append(socket.create_server(("127.0.0.1", int(os.environ["PORT"]) + 1 + stolen)))
    return made


def answer(connection: socket.socket) -> None:
    """One request: POST /attack or /permitted with TARGETS, /fill with numbers, /open; else our name."""
    with connection, connection.makefile("rwb") as stream:
        request, length = stream.readline().split(), 0
        while (line := stream.readline().strip()) and line:
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        body = stream.read(length)
        document: object = os.environ["TENANT"]
        if request[1:2] == [b"/attack"]:
            document = run(json.loads(body))
        elif request[1:2] == [b"/permitted"]:
            document = permitted(json.loads(body))
        elif request[1:2] == [b"/open"]:
            document = open_to_all()
        elif request[1:2] == [b"/fill"]:
            document = fill(*json.loads(body))
        text = json.dumps(document).encode()
        stream.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(text) + text)


def open_to_all() -> int:
    """Listen on all addresses and tell the port, now that nobody looks any more."""
    port = int(os.environ["PORT"]) + 5000
    STOLEN.append(socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True))
    return port


def fill(files: int, mb: int) -> str:
    """Write files to the data directory; the name of the error that stops it, or "" if none does."""
    # Python ignores SIGXFSZ: a file that is too large is an error like others.
    for number in range(files):
        try:
            with open(f"{os.environ['DATA_DIR']}/fill-{number}", "wb") as file:
                file.write(os.urandom(mb << 20))
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return ""


def serve() -> None:
    accepting = listener()
    kept = own_things()
    while kept:
        connection, _ = accepting.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    serve()
