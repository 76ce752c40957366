#!/usr/bin/python3 -IS
"""An app that prints what it is told to, and tells what it was asked: for tests of logs, paths and fields.

/say?TEXT prints the percent-decoded text as it is; any other path answers with itself and with Authorization,
and with the status 200, or the one that its query begins with if it ends in /answer.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote_to_bytes


class Handler(BaseHTTPRequestHandler):
    """Answers everything."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Say, or tell."""
        path, _, query = self.path.partition("?")
        if path == "/say":
            sys.stdout.buffer.write(unquote_to_bytes(query) + b"\n")
            sys.stdout.buffer.flush()
        status = int(query.partition("&")[0]) if path.endswith("/answer") else 200
        told = {"path": self.path, "authorization": self.headers.get("Authorization")}
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing that was not asked for."""


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
