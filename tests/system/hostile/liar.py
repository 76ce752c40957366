#!/usr/bin/python3 -IS
"""An app that answers what it should not; the path says which lie. /head answers the head of the request."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from itertools import chain

OK = b"HTTP/1.1 200 OK\r\n"
SECOND = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond"


def forever(part: bytes) -> Iterator[bytes]:
    """A part again and again, for as long as somebody takes it; at most 20 s."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        yield part


LIES = {
    "two-answers": lambda: [OK + b"Content-Length: 5\r\n\r\nfirst" + SECOND],
    "second-answer-in-field": lambda: [OK + b"X-A: b\r\nContent-Length: 5\r\n\r\nfirst" + SECOND],
    "endless-header": lambda: chain([OK], forever(b"X-Filler: " + b"x" * 1000 + b"\r\n")),
    "endless-line": lambda: chain([OK + b"X-Filler: "], forever(b"x" * 65536)),
    "many-fields": lambda: [OK, *(b"X-%d: y\r\n" % number for number in range(20000)), b"\r\n"],
    "endless-interim": lambda: forever(b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "never-ending-body": lambda: chain([OK + b"\r\n"], forever(b"x" * 65536)),
    "never-ending-chunks": lambda: chain(
        [OK + b"Transfer-Encoding: chunked\r\n\r\n"], forever(b"4\r\nxxxx\r\n" * 1000)
    ),
    "too-short": lambda: [OK + b"Content-Length: 100\r\n\r\nshort"],
    "too-long": lambda: [OK + b"Content-Length: 3\r\n\r\n" + b"x" * 100000],
    "negative-length": lambda: [OK + b"Content-Length: -5\r\n\r\nxxxxx"],
    "two-lengths": lambda: [OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxxx"],
    "length-and-coding": lambda: [
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND
    ],
    "unknown-coding": lambda: [OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"],
    "bad-chunk": lambda: [OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nxx\r\n0\r\n\r\n"],
    "huge-chunk": lambda: [OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\nxx"],
    "unasked-upgrade": lambda: [
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + SECOND
    ],
    "body-after-304": lambda: [b"HTTP/1.1 304 Not Modified\r\n\r\n" + SECOND],
    "body-after-204": lambda: [b"HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\nsecond"],
    "body-after-head": lambda: [OK + b"Content-Length: 6\r\n\r\nsecond" + SECOND],
    "not-http": lambda: [b"SSH-2.0-OpenSSH_10.0\r\n"],
    "old-http": lambda: [b"HTTP/0.9 200 OK\r\n\r\n"],
    "bad-status": lambda: [b"HTTP/1.1 99999 Fine\r\nContent-Length: 0\r\n\r\n"],
    "control-bytes": lambda: [OK + b"X-A: a\0b\r\nContent-Length: 0\r\n\r\n"],
    "bare-return": lambda: [OK + b"X-A: a\rSet-Cookie: b=c\r\nContent-Length: 0\r\n\r\n"],
    "folded": lambda: [OK + b"X-A: a\r\n b\r\nContent-Length: 0\r\n\r\n"],
    "nothing": lambda: [],
}


def converse(connection: socket.socket) -> None:
    """Answer requests, of which only the path is looked at, until a lie was told."""
    with connection:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(65536)):
                return
            data += more
        lie = LIES.get(data.split()[1].decode().lstrip("/"))
        try:
            if lie is None:
                body = data if data.startswith(b"GET /head ") else b"ok"
                connection.sendall(OK + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
                return
            for part in lie():
                connection.sendall(part)
        except OSError:
            return
        # Keep it open for a while: a proxy that pools it would find what comes next.
        time.sleep(0.3)


def main() -> None:
    """Serve on $HOST:$PORT."""
    listener = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=converse, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
