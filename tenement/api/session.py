"""Sessions of the dashboard: a cookie that holds a session's token, and what keeps other sites from using it.

Tenants live on subdomains, so to a browser they are the *same site* as the dashboard, and SameSite= alone
protects from none of them. Three things do: the cookie is for this host alone (with TLS its name begins with
__Host-, so that no subdomain can set one of that name); a request that changes anything must come from a
page of this very origin, which browsers say themselves (Sec-Fetch-Site, Origin); and it carries a value that
only such a page can read.
"""

import hashlib
import hmac
from typing import Final
from urllib.parse import quote, urlsplit

from aiohttp import web

from tenement.api.context import is_secure
from tenement.api.problems import Refusal
from tenement.tokens import SESSION_S

_SAFE: Final = ("GET", "HEAD")
_NAME: Final = "tenement-session"


def cookie_name(request: web.Request) -> str:
    """The cookie's name on this connection."""
    return f"__Host-{_NAME}" if is_secure(request) else _NAME


def token_of(request: web.Request) -> str:
    """The token in the cookie; "" if there is none."""
    return request.cookies.get(cookie_name(request), "")


def set_cookie(request: web.Request, response: web.StreamResponse, token: str) -> None:
    """Keep a session's token in the browser."""
    response.set_cookie(
        cookie_name(request),
        token,
        max_age=int(SESSION_S),
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="Strict",
    )


def clear_cookie(request: web.Request, response: web.StreamResponse) -> None:
    """Take it out of the browser."""
    response.set_cookie(
        cookie_name(request),
        "",
        max_age=0,
        path="/",
        secure=is_secure(request),
        httponly=True,
        samesite="Strict",
    )


def csrf_value(token: str) -> str:
    """The value that forms in the session of `token` carry."""
    return hmac.new(token.encode(), b"csrf", hashlib.sha256).hexdigest()[:32]


def check_csrf(token: str, value: object) -> None:
    """Raises Refusal unless a form carried its session's value."""
    if not isinstance(value, str) or not hmac.compare_digest(csrf_value(token), value):
        raise Refusal(403, "The form is out of date: load the page again")


def check_origin(request: web.Request) -> None:
    """Raises Refusal for a change that another origin asks for."""
    if request.method in _SAFE:
        return
    origin = request.headers.get("Origin")
    foreign = origin is not None and urlsplit(origin).netloc != request.host
    if foreign or request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise Refusal(403, "The request comes from another site")


def to_login(request: web.Request) -> web.StreamResponse:
    """Send the browser to the login page, and later back to where it wanted to go."""
    target = "/login"
    if request.method in _SAFE and request.path not in ("/", "/logout"):
        target += f"?next={quote(request.path_qs, safe='')}"
    response = web.Response(status=303, headers={"Location": target})
    if request.headers.get("Accept", "").startswith("text/event-stream"):
        # EventSource would follow the redirect and try again for ever; 204 tells it to stop.
        response = web.Response(status=204)
    clear_cookie(request, response)
    return response


def local_target(text: str) -> str:
    """Where to go after the login: a path of this site, whatever was asked for."""
    parts = urlsplit(text)
    plain = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if plain and not parts.scheme and not parts.netloc and "\\" not in text else "/"
