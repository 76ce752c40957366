#!/usr/bin/python3 -IS
"""Services that listen in every way there is: what hostile tenants try to reach.

targets.py host      those of the host, on its loopback, on all addresses, on unix sockets
targets.py outside   those of another machine: the internet, and the metadata service of a cloud
"""

import contextlib
import os
import selectors
import socket
import sys
from typing import Final

GREETING: Final = b"here I am\n"
LOOPBACK_PORT: Final = 7801
LOOPBACK6_PORT: Final = 7802
ANY_PORT: Final = 7803
UDP_PORT: Final = 7804
OUTSIDE_PORT: Final = 7805
METADATA_PORT: Final = 80


def tcp(address: str, port: int) -> socket.socket:
    if address == "::":
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)


def udp(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    if ":" in address:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind((address, port))
    return made


def unix(path: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind)
    if path.startswith("/") and os.path.exists(path):
        os.unlink(path)
    made.bind(path)
    if path.startswith("/"):
        os.chmod(path, 0o666)
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made


def sockets(where: str) -> list[socket.socket]:
    if where == "outside":
        both = [tcp("0.0.0.0", OUTSIDE_PORT), tcp("2001:db8::2", OUTSIDE_PORT)]
        return [*both, udp("0.0.0.0", UDP_PORT), tcp("169.254.169.254", METADATA_PORT)]
    return [
        tcp("127.0.0.1", LOOPBACK_PORT),
        tcp("::1", LOOPBACK6_PORT),
        tcp("::", ANY_PORT),
        udp("0.0.0.0", UDP_PORT),
        udp("::", UDP_PORT),
        unix("\0host-service"),
        unix("\0host-service-datagram", socket.SOCK_DGRAM),
        unix("/run/host-service.sock"),
    ]


def serve(where: str) -> None:
    """Greet whoever comes."""
    selector = selectors.DefaultSelector()
    for each in sockets(where):
        selector.register(each, selectors.EVENT_READ)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    while True:
        for key, _ in selector.select():
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            # Whoever came may be gone already.
            with contextlib.suppress(OSError):
                greet(ready)


def greet(ready: socket.socket) -> None:
    if ready.type == socket.SOCK_DGRAM:
        _, sender = ready.recvfrom(100)
        if sender:
            ready.sendto(GREETING, sender)
        return
    connection, _ = ready.accept()
    with connection:
        connection.send(GREETING)


if __name__ == "__main__":
    serve(sys.argv[1])
