#!/usr/bin/python3 -IS
"""Notes for one customer: POST text to /notes, GET them back as JSON, kept in SQLite in $DATA_DIR.

Written as if there were only one customer, which is the point of tenement. Standard library only, and few
modules of it, because a sleeping tenant's first visitor waits for the imports: sqlite3 reads and writes JSON.
"""

import os
import socket
import sqlite3
import threading
from io import BufferedReader
from typing import NamedTuple

MAX_BODY_BYTES = 1 << 20
REASONS = {
    200: "OK",
    201: "Created",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
}


class Answer(NamedTuple):
    """A status, a content type and the content."""

    status: int
    type: str
    content: str


class Notes:
    """The customer's notes. One connection serves all threads, one at a time: SQLite is quick."""

    def __init__(self, directory: str) -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            f"{directory}/notes.db", check_same_thread=False, isolation_level=None
        )
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("CREATE TABLE IF NOT EXISTS note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")

    def add(self, text: str) -> str:
        """Keep a note; returns it as JSON."""
        with self._lock:
            row = self._database.execute(
                "INSERT INTO note (text) VALUES (?) RETURNING json_object('id', id, 'text', text)", (text,)
            ).fetchone()
        return str(row[0])

    def all(self) -> str:
        """Return every note as a JSON array, oldest first."""
        note = "json_object('id', id, 'text', text)"
        query = f"SELECT json_group_array({note}) FROM (SELECT * FROM note ORDER BY id)"
        with self._lock:
            return str(self._database.execute(query).fetchone()[0])

    def text_of(self, document: str) -> str | None:
        """Take the text out of {"text": ...}; None if the document is anything else."""
        query = "SELECT json_extract(?1, '$.text') WHERE json_type(?1, '$.text') = 'text'"
        try:
            with self._lock:
                row = self._database.execute(query, (document,)).fetchone()
        except sqlite3.OperationalError:
            return None
        return str(row[0]) if row else None


def answer(notes: Notes, method: str, path: str, content_type: str, body: bytes) -> Answer:
    """Answer one request."""
    if path == "/health":
        return Answer(200, "text/plain", "ok\n")
    if path == "/":
        return Answer(200, "text/plain", f"Notes of {os.environ.get('INSTANCE_ID', 'nobody')}: see /notes\n")
    if path != "/notes":
        return Answer(404, "text/plain", "There is only /notes.\n")
    if method in ("GET", "HEAD"):
        return Answer(200, "application/json", notes.all() + "\n")
    if method != "POST":
        return Answer(405, "text/plain", "GET or POST, please.\n")
    text: str | None = body.decode("utf-8", "replace")
    if content_type.startswith("application/json"):
        text = notes.text_of(text or "")
    if not text:
        return Answer(400, "text/plain", 'Send the note as text, or as JSON: {"text": "..."}\n')
    return Answer(201, "application/json", notes.add(text) + "\n")


def read_body(stream: BufferedReader, headers: dict[str, str]) -> bytes | None:
    """Read a request's content, of known length or chunked; None if it is too large."""
    if headers.get("transfer-encoding", "").lower() != "chunked":
        length = int(headers.get("content-length", 0))
        return stream.read(length) if length <= MAX_BODY_BYTES else None
    body = b""
    while size := int(stream.readline().split(b";")[0], 16):
        if len(body) + size > MAX_BODY_BYTES:
            return None
        body += stream.read(size)
        stream.readline()
    while stream.readline().strip():
        pass
    return body


def serve_one(stream: BufferedReader, connection: socket.socket, notes: Notes) -> bool:
    """Answer one request of a connection; False when the connection is to be closed."""
    line = stream.readline(65536)
    if not line.strip():
        return False
    method, target, version = line.decode("latin-1").split()
    headers = {}
    while (field := stream.readline(65536).decode("latin-1")).strip():
        name, _, value = field.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("expect", "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    path = target.partition("?")[0]
    body = read_body(stream, headers)
    if body is None:
        result = Answer(413, "text/plain", "A note may have a megabyte.\n")
    else:
        result = answer(notes, method, path, headers.get("content-type", ""), body)
    keep = body is not None and version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    content = result.content.encode()
    head = (
        f"HTTP/1.1 {result.status} {REASONS[result.status]}\r\nContent-Type: {result.type}\r\n"
        f"Content-Length: {len(content)}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    )
    # What is printed is in the journal: ten logs.
    if path != "/health":
        print(method, target, result.status, flush=True)
    connection.sendall(head.encode() + (b"" if method == "HEAD" else content))
    return keep


def serve(connection: socket.socket, notes: Notes) -> None:
    """Answer a connection's requests until it ends."""
    with connection, connection.makefile("rb") as stream:
        try:
            while serve_one(stream, connection, notes):
                pass
        except (OSError, ValueError) as error:
            print("connection ended:", error, flush=True)


def listener() -> socket.socket:
    """Listen in the way that the service is configured for: listen = "fd", "port" or "socket"."""
    if os.environ.get("LISTEN_FDS"):
        return socket.socket(fileno=3)
    if port := os.environ.get("PORT"):
        return socket.create_server((os.environ.get("HOST", "127.0.0.1"), int(port)), backlog=512)
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.environ["SOCKET_PATH"])
    server.listen(512)
    return server


def main() -> None:
    """Serve until told to end."""
    notes = Notes(os.environ["DATA_DIR"])
    server = listener()
    while True:
        connection, _ = server.accept()
        threading.Thread(target=serve, args=(connection, notes), daemon=True).start()


if __name__ == "__main__":
    main()
