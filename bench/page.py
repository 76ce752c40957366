#!/usr/bin/python3
"""The app with which the peer is compared: http.server, as its own quick start has it."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers every GET with two bytes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """See BaseHTTPRequestHandler."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
