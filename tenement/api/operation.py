"""What can be asked over HTTP: each operation is declared once, and routing, checks and OpenAPI follow."""

import enum
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from tenement.errors import InvalidName
from tenement.names import TenantName

if TYPE_CHECKING:
    from tenement.api.context import Context


class Need(enum.Enum):
    """Who may ask. Everybody else gets 401 without a token that is good, 403 with one."""

    NOBODY = "nobody"
    """The default: an operation is closed until somebody says who may use it."""
    ADMIN = "admin"
    """Holders of an administrator's token."""
    OWN = "own"
    """Those, and the tenant that the request names, with a token of its own."""
    METRICS = "metrics"
    """Those with an administrator's or a metrics token, and addresses that the configuration names."""
    SESSION = "session"
    """People at the dashboard who have logged in."""
    PUBLIC = "public"
    """Everybody."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to an operation, checked: `query` and `body` are of the types that it declares."""

    context: "Context"
    request: web.Request
    token: str
    scope: str
    peer: str
    tenant: TenantName | None
    query: Any
    body: Any

    @property
    def name(self) -> TenantName:
        """The tenant in the path; only for operations that have one there."""
        assert self.tenant is not None
        return self.tenant

    async def act(
        self,
        member: str,
        signature: str = "",
        *values: object,
        timeout_s: float = 30.0,
        plain: bool = False,
    ) -> Any:
        """Call the manager with the caller's token; its result, from JSON unless it is `plain` text.

        Raises what the manager raises.
        """
        from dbus_fast import Variant

        arguments = [Variant(kind, value) for kind, value in zip(signature, values, strict=True)]
        return await self.context.manager.act(
            self.token, self.peer, member, *arguments, timeout_s=timeout_s, plain=plain
        )


Handler = Callable[[Call], Coroutine[Any, Any, web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    `query` and `body` are msgspec structs; `answer` is the type of the content of a good answer, whose status
    is `status`; `problems` are the statuses of others that it may give. `{tenant}` in a path names a tenant.
    """

    method: str
    path: str
    handler: Handler
    need: Need = Need.NOBODY
    summary: str = ""
    tag: str = ""
    query: type[msgspec.Struct] | None = None
    body: Any = None
    answer: Any = None
    media_type: str = "application/json"
    status: int = 200
    problems: tuple[int, ...] = ()
    hidden: bool = False


def parse_tenant(text: str) -> TenantName:
    """The tenant that a path or a query names. Raises InvalidName."""
    return TenantName.parse(text)


def same_tenant(text: str, own: str | None) -> bool:
    """Whether a path names the tenant that a token is for; what is no name is nobody's."""
    try:
        return own is not None and str(parse_tenant(text)) == own
    except InvalidName:
        return False


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what callers send: fields that are not declared are refused."""


class Page(Strict, frozen=True, kw_only=True):
    """Base of queries for lists."""

    limit: int = 1000
    offset: int = 0
