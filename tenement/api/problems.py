"""Errors as answers: problem details, RFC 9457."""

import json
import math
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from tenement.errors import Disabled, InvalidConfig, TenementError, Unauthorized

CONTENT_TYPE: Final = "application/problem+json"


def problem(
    status: int,
    detail: str,
    *,
    code: str | None = None,
    retry_after_s: float | None = None,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> web.Response:
    """An answer that says what was wrong. `code` is the name of one of tenement's errors."""
    content = {
        "type": f"urn:tenement:problem:{code}" if code else "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **more,
    }
    fields = dict(headers or {})
    if status == 401:
        fields["WWW-Authenticate"] = 'Bearer realm="tenement"'
    if retry_after_s is not None:
        fields["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    return web.Response(
        status=status,
        body=json.dumps(content).encode() + b"\n",
        content_type=CONTENT_TYPE,
        headers=fields,
    )


def of_error(error: TenementError) -> web.Response:
    """The answer for one of tenement's errors."""
    more: dict[str, Any] = {}
    if isinstance(error, InvalidConfig):
        more["problems"] = [str(each) for each in error.problems]
    if error.tenant:
        more["tenant"] = error.tenant
    detail = error.message if not isinstance(error, Unauthorized) else UNAUTHORIZED
    # Visitors of a disabled tenant may come again later; whoever asks here contradicts what was asked before.
    status = 409 if isinstance(error, Disabled) else error.http_status
    return problem(status, detail, code=error.code, retry_after_s=error.retry_after_s, **more)


UNAUTHORIZED: Final = "The token is missing, unknown, expired or revoked"
FORBIDDEN: Final = "The token does not allow this"


class Refusal(Exception):
    """Ends a request with a problem. `status` and `detail` are what the caller sees."""

    def __init__(self, status: int, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s

    def answer(self) -> web.Response:
        """The answer."""
        return problem(self.status, self.detail, retry_after_s=self.retry_after_s)
