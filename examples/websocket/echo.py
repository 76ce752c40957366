#!/usr/bin/python3 -IS
"""Sends back what it gets, on a WebSocket (RFC 6455), to show upgraded connections. Standard library only.

An app of your own will rather use a library: this one knows no extensions and takes messages of one frame.
"""

import base64
import hashlib
import os
import socket
import threading
from io import BufferedReader

# RFC 6455, section 1.3: proves that the server understood the handshake.
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLOSE, PING, PONG = 8, 9, 10
MAX_PAYLOAD_BYTES = 1 << 20
PLAIN = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 33\r\n\r\n"
UPGRADE = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


def read_frame(stream: BufferedReader) -> tuple[int, bytes]:
    """Read one masked frame of a client; returns its opcode and payload. Raises EOFError, ValueError."""
    head = stream.read(2)
    if len(head) < 2:
        raise EOFError("the client is gone")
    length = head[1] & 0x7F
    if length >= 126:
        length = int.from_bytes(stream.read(2 if length == 126 else 8))
    if length > MAX_PAYLOAD_BYTES or not head[1] & 0x80:
        raise ValueError("a frame that is too long, or not masked")
    mask = stream.read(4) * (length // 4 + 1)
    payload = bytes(a ^ b for a, b in zip(stream.read(length), mask, strict=False))
    return head[0] & 0x0F, payload


def frame(opcode: int, payload: bytes) -> bytes:
    """Make one final, unmasked frame."""
    if len(payload) < 126:
        length = bytes([len(payload)])
    elif len(payload) < 1 << 16:
        length = b"\x7e" + len(payload).to_bytes(2)
    else:
        length = b"\x7f" + len(payload).to_bytes(8)
    return bytes([0x80 | opcode]) + length + payload


def echo(stream: BufferedReader, connection: socket.socket) -> None:
    """Send every message back until one side closes."""
    while True:
        opcode, payload = read_frame(stream)
        if opcode != PONG:
            connection.sendall(frame(PONG if opcode == PING else opcode, payload))
        if opcode == CLOSE:
            return


def serve(connection: socket.socket) -> None:
    """Answer requests; the first that asks for a WebSocket gets one."""
    with connection, connection.makefile("rb") as stream:
        try:
            while stream.readline(4096).strip():
                headers = {}
                while (line := stream.readline(65536).decode("latin-1")).strip():
                    name, _, value = line.partition(":")
                    headers[name.lower()] = value.strip()
                key = headers.get("sec-websocket-key")
                if key is None:
                    connection.sendall(f"{PLAIN}Send a WebSocket handshake here.\n".encode())
                    continue
                accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()
                connection.sendall(f"{UPGRADE}Sec-WebSocket-Accept: {accept}\r\n\r\n".encode())
                print("a WebSocket is open", flush=True)
                echo(stream, connection)
                print("a WebSocket was closed", flush=True)
                return
        except (EOFError, OSError, ValueError) as error:
            print("connection ended:", error, flush=True)


def main() -> None:
    """Serve until told to end."""
    server = socket.create_server((os.environ["HOST"], int(os.environ["PORT"])), backlog=128)
    while True:
        connection, _ = server.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
