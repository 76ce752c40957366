#!/usr/bin/python3 -IS
"""Connections to the proxy by the thousand, from an address of their own.

    crowd.py ADDRESS COUNT     says "here" when all are there, and resets them when its input ends

Most say nothing; each fourth begins to say something and does not go on.
"""

import contextlib
import socket
import struct
import sys

BEGINNINGS = (
    b"",
    b"G",
    b"GET / HTTP/1.1\r\nHost: h.honest.localhost\r\n",
    # For nobody: it is not the proxy that an app with a thread for each body runs out of them.
    b"POST / HTTP/1.1\r\nHost: nobody.example\r\nContent-Length: 10\r\n\r\n",
    b"\x16\x03\x01",
)
# A reset leaves nothing of a connection behind, not even in the kernel.
RESET = struct.pack("ii", 1, 0)


def main() -> None:
    """Come, stay, and go."""
    address, count = sys.argv[1], int(sys.argv[2])
    clients = []
    for number in range(count):
        client = socket.create_connection(("127.0.0.1", 80), 30, (address, 0))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        clients.append(client)
        if number % 4 == 0:
            with contextlib.suppress(ConnectionError):
                client.send(BEGINNINGS[number // 4 % len(BEGINNINGS)])
    print("here", flush=True)
    sys.stdin.read()


main()
