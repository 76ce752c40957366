#!/usr/bin/python3 -IS
"""Tells the time on a unix socket (listen = "socket"): such an app needs no network at all."""

import os
import socket
import time


def answer(connection: socket.socket) -> None:
    """Answer one request, and close."""
    with connection, connection.makefile("rb") as stream:
        line = stream.readline(4096).decode("latin-1").split()
        while stream.readline(65536).strip():
            pass
        if not line:
            return
        if line[1] != "/health":
            print(line[0], line[1], flush=True)
        content = time.strftime("%H:%M:%S\n").encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(content)}\r\n"
        connection.sendall(head.encode() + b"Connection: close\r\n\r\n" + content)


def main() -> None:
    """Serve until told to end."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.environ["SOCKET_PATH"])
    server.listen(128)
    while True:
        connection, _ = server.accept()
        try:
            answer(connection)
        except OSError as error:
            print("connection ended:", error, flush=True)


if __name__ == "__main__":
    main()
