"""Answers of the proxy's own: pages from `templates/errors`, or JSON, as the client's Accept asks.

Templates are rendered once, at start, for each status; a request costs one replacement. Nothing of the
request is in a page but its id. A service may bring pages that are used instead.
"""

import json
import logging
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, select_autoescape

from tenement import error_pages
from tenement.proxy import date

log = logging.getLogger(__name__)

INSTALLED: Final = Path("/usr/share/tenement/templates/errors")
"""Where the package puts the templates."""

_ID: Final = "{request_id}"
_TEXTS: Final[dict[int, str]] = {
    308: "This is only served over HTTPS.",
    400: "The request could not be understood.",
    404: "There is nothing at this address.",
    408: "The request took too long to arrive.",
    413: "What was sent is larger than this service accepts.",
    414: "The address is too long.",
    421: "This connection was made for another host.",
    429: "Too many requests. Please try again in a moment.",
    431: "The request's headers are too large.",
    500: "Something went wrong here.",
    501: "This is not offered here.",
    502: "The service did not give a proper answer.",
    503: "The service is not available right now. Please try again in a moment.",
    504: "The service took too long to answer.",
    505: "This version of HTTP is not spoken here.",
}
_WAITING: Final = "waiting.html"


def directory() -> Path:
    """Where the templates are: beside the source if this runs from there, or where the package puts them."""
    source = Path(__file__).parents[2] / "templates" / "errors"
    return source if source.is_dir() else INSTALLED


class Pages:
    """Rendered pages. `directory` has `error.html`, `waiting.html`, and may have one like `404.html` for a
    status.
    """

    def __init__(self, directory: Path) -> None:
        environment = Environment(
            loader=FileSystemLoader(directory),
            autoescape=select_autoescape(),
            trim_blocks=True,
            lstrip_blocks=True,
        )
        names = set(environment.list_templates())
        self._html: dict[int, str] = {}
        for status, text in _TEXTS.items():
            name = f"{status}.html" if f"{status}.html" in names else "error.html"
            page = environment.get_template(name)
            self._html[status] = page.render(
                status=status, title=HTTPStatus(status).phrase, text=text, request_id=_ID
            )
        self._waiting = environment.get_template(_WAITING).render(request_id=_ID)
        self._own: dict[str, dict[str, str]] = {}

    def read_own(self, directories: Iterable[str]) -> None:
        """Read the pages of services anew, of which each has them in one directory; "" is none."""
        self._own.clear()
        for directory in {each for each in directories if each}:
            self._own[directory], faults = error_pages.read(Path(directory))
            for fault in faults:
                log.warning("error_pages: %s", fault)

    def answer(
        self,
        status: int,
        *,
        accept: str = "",
        request_id: bytes = b"",
        retry_after_s: float | None = None,
        close: bool = False,
        keep_alive: bool = False,
        to_head: bool = False,
        detail: str = "",
        fields: bytes = b"",
        added: bytes = b"",
        body: bytes | None = None,
        own: str = "",
    ) -> bytes:
        """The whole answer. `detail`, for JSON, must hold nothing internal.

        `close` and `keep_alive` say it in the Connection field. `fields` go into the head, each with a line
        end behind it, and `added`, each with one in front. A `body` of one's own needs a Content-Type there.
        `own` is the directory of the service's own pages.
        """
        kind = ""
        if body is None and "text/html" in accept:
            kind = "text/html; charset=utf-8"
            page = self._own.get(own, {}).get(str(status)) or self._html[status]
            body = page.replace(_ID, request_id.decode()).encode()
        elif body is None:
            kind, body = "application/json", _as_json(status, detail, request_id)
        fields = (added[2:] + b"\r\n" if added else b"") + fields
        return _assemble(status, kind, body, request_id, retry_after_s, close, keep_alive, to_head, fields)

    def waiting(self, request_id: bytes, own: str = "") -> bytes:
        """The page that reloads itself until the service is awake."""
        page = self._own.get(own, {}).get("waiting") or self._waiting
        return page.replace(_ID, request_id.decode()).encode()


def _as_json(status: int, detail: str, request_id: bytes) -> bytes:
    content: dict[str, object] = {
        "status": status,
        "error": HTTPStatus(status).phrase,
        "detail": detail or _TEXTS[status],
    }
    if request_id:
        content["request_id"] = request_id.decode()
    return json.dumps(content).encode() + b"\n"


def _assemble(
    status: int,
    kind: str,
    body: bytes,
    request_id: bytes,
    retry_after_s: float | None,
    close: bool,
    keep_alive: bool,
    to_head: bool,
    fields: bytes,
) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
    ]
    if kind:
        lines.append(f"Content-Type: {kind}")
    if request_id:
        lines.append(f"X-Request-Id: {request_id.decode()}")
    if retry_after_s is not None:
        lines.append(f"Retry-After: {max(1, round(retry_after_s + 0.499))}")
    if close:
        lines.append("Connection: close")
    elif keep_alive:
        lines.append("Connection: keep-alive")
    return (
        "\r\n".join(lines).encode() + date.field() + b"\r\n" + fields + b"\r\n" + (b"" if to_head else body)
    )
