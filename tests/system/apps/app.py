#!/usr/bin/python3 -IS
"""An app that behaves as badly as its environment says, for tests of what tenement makes of it.

    FIRST_LINE       printed at once
    EXIT_STATUS      then exit with that
    START_DELAY_S    seconds before it listens; connections are refused meanwhile
    SICK_S           seconds for which /up answers 503 after it listens
    UP_STATUS        what /up answers otherwise (200)
    EXIT_DELAY_S     seconds between SIGTERM and its end, in which it refuses connections
    STUBBORN         listen in a child in a session of its own, which ignores SIGTERM
    PUBLIC_SUFFIX    answer 400 to a Host without it, and redirect what did not come over https
    SOCKET_MODE      octal mode of its unix socket

It answers any path with the SHA-256 of the request's content and a count of requests, as JSON. Besides:

    /up              its health
    /drip?N&S        N bytes, one part of 100 at a time, over S seconds
    /slow?S          the usual answer, after S seconds
    /push?S          a WebSocket: a message "pushed" after S seconds, then echoes lengths until it is closed
    /exit?N          exit with status N instead of answering
    /connect?PATH    the name of the error of connecting to that unix socket; "" if it worked
    /ail             from now on /up answers 500

Standard library, and little of it: tests wait for its start.
"""

import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from io import BufferedReader

SETTINGS = os.environ
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class App:
    """What the threads share."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.lock = threading.Lock()
        self.count = 0
        self.ails = False
        self.sick_until = time.monotonic() + float(SETTINGS.get("SICK_S", 0))
        self.ending = threading.Event()

    def serve(self) -> None:
        """Accept connections until SIGTERM."""
        while not self.ending.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                break
            threading.Thread(target=self.converse, args=(connection,), daemon=True).start()

    def converse(self, connection: socket.socket) -> None:
        """Answer the requests of one connection."""
        with connection, connection.makefile("rb") as stream:
            try:
                while self.answer(connection, stream):
                    pass
            except (ConnectionError, ValueError):
                # The proxy went away, or stopped in the middle of a request.
                pass

    def answer(self, connection: socket.socket, stream: BufferedReader) -> bool:
        """Answer one request; False when the connection is over."""
        line = stream.readline(65536)
        if not line.strip():
            return False
        target = line.split()[1].decode()
        fields: dict[str, str] = {}
        while (field := stream.readline(65536).decode("latin-1")).strip():
            name, _, value = field.partition(":")
            fields[name.lower()] = value.strip()
        path, _, query = target.partition("?")
        if suffix := SETTINGS.get("PUBLIC_SUFFIX"):
            if not fields.get("host", "").endswith(suffix):
                send(connection, 400, "who?")
                return True
            if fields.get("x-forwarded-proto") != "https" and path == "/up":
                send(connection, 301, "", f"Location: https://{fields['host']}{target}\r\n")
                return True
        match path:
            case "/up":
                self.up(connection)
            case "/drip":
                drip(connection, *(float(each) for each in query.split("&")))
            case "/push":
                push(connection, stream, fields["sec-websocket-key"], float(query))
                return False
            case "/exit":
                os._exit(int(query))
            case "/connect":
                send(connection, 200, connect(query))
            case "/ail":
                self.ails = True
                send(connection, 200, "")
            case _:
                if path == "/slow":
                    time.sleep(float(query))
                self.echo(connection, stream, fields, target)
        return True

    def up(self, connection: socket.socket) -> None:
        """Answer the health check."""
        sick = time.monotonic() < self.sick_until
        well = 500 if self.ails else int(SETTINGS.get("UP_STATUS", 200))
        send(connection, 503 if sick else well, "")

    def echo(
        self, connection: socket.socket, stream: BufferedReader, fields: dict[str, str], target: str
    ) -> None:
        """Tell what arrived. Anything truncated raises ValueError."""
        import hashlib  # Late: it loads OpenSSL, for which a health check need not wait.
        import json

        digest, length = hashlib.sha256(), 0
        for part in content(stream, fields):
            digest.update(part)
            length += len(part)
        with self.lock:
            self.count += 1
            count = self.count
        answer = {
            "digest": digest.hexdigest(),
            "length": length,
            "count": count,
            "target": target,
            "tenant": SETTINGS["TENANT"],
            "pid": os.getpid(),
            "invocation": SETTINGS.get("INVOCATION_ID", ""),
            "well_since": self.sick_until,
        }
        send(connection, 200, json.dumps(answer))


def content(stream: BufferedReader, fields: dict[str, str]) -> Iterator[bytes]:
    """A request's content in parts."""
    if fields.get("transfer-encoding", "").lower() == "chunked":
        while size := int(stream.readline().split(b";")[0], 16):
            yield exactly(stream, size)
            stream.readline()
        while stream.readline().strip():
            pass
    elif length := int(fields.get("content-length", 0)):
        yield exactly(stream, length)


def exactly(stream: BufferedReader, size: int) -> bytes:
    """So many bytes, and no fewer."""
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("truncated")
    return data


def send(connection: socket.socket, status: int, text: str, fields: str = "") -> None:
    """Send one answer, in one piece."""
    body = text.encode()
    connection.sendall(f"HTTP/1.1 {status} -\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body)


def drip(connection: socket.socket, size: float, seconds: float) -> None:
    """Send a long answer slowly."""
    connection.sendall(f"HTTP/1.1 200 -\r\nContent-Length: {size:.0f}\r\n\r\n".encode())
    parts = int(size) // 100
    began = time.monotonic()
    for number in range(parts):
        connection.sendall(b"%09d\n" % number * 10)
        time.sleep(max(0.0, began + seconds * (number + 1) / parts - time.monotonic()))


def push(connection: socket.socket, stream: BufferedReader, key: str, seconds: float) -> None:
    """Be a WebSocket that says something by itself, once."""
    import base64
    import hashlib

    accept = base64.b64encode(hashlib.sha1(key.encode() + WEBSOCKET_GUID).digest()).decode()
    connection.sendall(
        f"HTTP/1.1 101 -\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n"
        "\r\n".encode()
    )
    time.sleep(seconds)
    connection.sendall(b"\x81\x06pushed")
    stream.read(1)


def connect(path: str) -> str:
    """The error of connecting to a unix socket."""
    with socket.socket(socket.AF_UNIX) as other:
        code = other.connect_ex(path)
    return errno.errorcode[code] if code else ""


def listen() -> socket.socket:
    """The listening socket, in the way that tenement asks for."""
    if SETTINGS.get("LISTEN_FDS"):
        return socket.socket(fileno=3)
    if path := SETTINGS.get("SOCKET_PATH"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        if mode := SETTINGS.get("SOCKET_MODE"):
            os.chmod(path, int(mode, 8))
    else:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", int(SETTINGS["PORT"])))
    listener.listen(1024)
    return listener


def main() -> None:
    """Run until SIGTERM."""
    if line := SETTINGS.get("FIRST_LINE"):
        print(line, flush=True)
    if status := SETTINGS.get("EXIT_STATUS"):
        sys.exit(int(status))
    time.sleep(float(SETTINGS.get("START_DELAY_S", 0)))
    if SETTINGS.get("STUBBORN"):
        if os.fork():
            # The main process lives as long as a service should, and listens to nothing.
            signal.pause()
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    app = App(listen())
    if not SETTINGS.get("STUBBORN"):
        signal.signal(signal.SIGTERM, lambda *_: terminate(app))
    # Threads inherit the mask: SIGTERM is for this one, which would not hear of it if another got it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=app.serve, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    app.ending.wait()
    time.sleep(float(SETTINGS.get("EXIT_DELAY_S", 0)))
    os._exit(0)


def terminate(app: App) -> None:
    """Refuse connections from now on, and end."""
    if not SETTINGS.get("LISTEN_FDS"):
        # shutdown() ends an accept() under way, which close() alone does not.
        app.listener.shutdown(socket.SHUT_RDWR)
        app.listener.close()
    app.ending.set()


main()
