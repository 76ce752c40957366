"""Who gets in: every request passes here; if nobody said who may use its operation, it is refused."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from tenement.api import session
from tenement.api.context import CONTEXT, Context, client_address, in_networks
from tenement.api.operation import Call, Need, Operation, parse_tenant, same_tenant
from tenement.api.problems import FORBIDDEN, UNAUTHORIZED, Refusal, of_error, problem
from tenement.errors import TenementError, Unauthorized

# RFC 6750, 2.1; the scheme is case-insensitive (RFC 9110, 11.1).
_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
_BODY_BYTES_MAX: Final = 64 * 1024
_METHODS_WITH_BODY: Final = ("POST", "PUT", "PATCH")

HEADERS: Final[Mapping[str, str]] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Fields of every answer."""


class Guard:
    """Turns an operation into a handler of aiohttp."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Check the request, in this order: who asks, how often, what for; then do it."""
        try:
            return await self._answer(request)
        except Refusal as refusal:
            return refusal.answer()
        except TenementError as error:
            if isinstance(error, Unauthorized) and self._operation.need is Need.SESSION:
                return session.to_login(request)
            return of_error(error)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        operation, context = self._operation, request.app[CONTEXT]
        peer = client_address(request)
        match operation.need:
            case Need.NOBODY:
                raise Refusal(403, FORBIDDEN)
            case Need.PUBLIC:
                token, scope = "", ""
            case Need.SESSION:
                session.check_origin(request)
                token, scope = session.token_of(request), "session"
                if not token:
                    return session.to_login(request)
            case Need.METRICS:
                allowed = (await context.settings())["metrics_allow"]
                token, scope = (
                    ("", "") if in_networks(peer, allowed) else await self._token(request, context, peer)
                )
            case _:
                token, scope = await self._token(request, context, peer)
        call = Call(
            context=context,
            request=request,
            token=token,
            scope=scope,
            peer=peer,
            tenant=parse_tenant(name) if (name := request.match_info.get("tenant")) is not None else None,
            query=self._query(request),
            body=await self._body(request),
        )
        return await operation.handler(call)

    async def _token(self, request: web.Request, context: Context, peer: str) -> tuple[str, str]:
        """The caller's token and its scope, if it may use this operation. Raises Refusal."""
        fields = request.headers.getall("Authorization", [])
        match = _BEARER.fullmatch(fields[0]) if len(fields) == 1 else None
        try:
            # Verified even if there is none, so that the answer takes as long.
            known = await context.verify(match[1] if match else "", peer)
        except Unauthorized:
            raise Refusal(401, UNAUTHORIZED) from None
        assert match is not None
        if wait_s := context.requests.wait_s(known["id"]):
            raise Refusal(429, "Too many requests with this token", retry_after_s=wait_s)
        context.requests.take(known["id"])
        if not self._may(request, known):
            raise Refusal(403, FORBIDDEN)
        return match[1], known["scope"]

    def _may(self, request: web.Request, known: dict[str, Any]) -> bool:
        """Whether a token may use this operation; the manager decides again when it is called."""
        need = self._operation.need
        if known["scope"] == "admin":
            return need in (Need.ADMIN, Need.OWN, Need.METRICS)
        if known["scope"] == "metrics":
            return need is Need.METRICS
        if known["scope"] != "tenant" or need is not Need.OWN:
            return False
        if "tenant" in request.match_info:
            return same_tenant(request.match_info["tenant"], known["tenant"])
        query = request.query
        return same_tenant(f"{query.get('service', '')}:{query.get('id', '')}", known["tenant"])

    def _query(self, request: web.Request) -> Any:
        operation = self._operation
        pairs = parse_qsl(request.rel_url.raw_query_string, keep_blank_values=True)
        values = dict(pairs)
        if len(values) != len(pairs):
            raise Refusal(400, "The query has a parameter twice")
        if operation.query is None:
            if values and not operation.hidden:
                raise Refusal(400, f"The query has a parameter that is not known: {min(values)[:64]!r}")
            return None
        try:
            return msgspec.convert(values, operation.query, strict=False)
        except msgspec.ValidationError as error:
            raise Refusal(400, f"The query is wrong: {error}") from None

    async def _body(self, request: web.Request) -> Any:
        operation = self._operation
        if request.method not in _METHODS_WITH_BODY or operation.hidden:
            return None
        content = await request.content.read(_BODY_BYTES_MAX + 1)
        while content and len(content) <= _BODY_BYTES_MAX:
            more = await request.content.read(_BODY_BYTES_MAX + 1 - len(content))
            if not more:
                break
            content += more
        if len(content) > _BODY_BYTES_MAX:
            raise Refusal(413, f"The body is larger than {_BODY_BYTES_MAX} bytes")
        if operation.body is None:
            if content.strip() not in (b"", b"{}"):
                raise Refusal(400, "This takes no body")
            return None
        if request.content_type != "application/json":
            raise Refusal(415, "The body has to be of type application/json")
        try:
            return msgspec.json.decode(content, type=operation.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refusal(400, f"The body is wrong: {error}") from None


@web.middleware
async def finish(request: web.Request, handler: Any) -> web.StreamResponse:
    """Turn aiohttp's own refusals (no such path, no such method) into problems."""
    try:
        return await handler(request)  # type: ignore[no-any-return]
    except web.HTTPMethodNotAllowed as error:
        return problem(405, "The path does not have this method", headers={"Allow": error.headers["Allow"]})
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return problem(
            error.status, "There is nothing at this address" if error.status == 404 else error.reason
        )


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Put HEADERS on an answer, also on one that aiohttp makes itself."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
