"""What the HTTP API may do: nothing of its own accord, only what the token it shows allows.

The process that serves the HTTP API parses what the internet sends, so it is not trusted. Each of its calls
carries the caller's token, which is verified here, against the registry, and each call is checked against
what that token is for. An API process in the hands of an attacker can use the tokens that pass through it
while that lasts; it cannot make one up, read the registry, or do anything without one but see the numbers
that /metrics has.

A method that is not in the table of rights cannot be called this way: a new one is closed until it is
entered.
"""

import enum
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dbus_fast import Variant

from tenement.errors import Denied, InvalidName, NotFound, Overloaded, TenementError
from tenement.manager.bus_service import Method
from tenement.manager.events import Events
from tenement.manager.log_streams import LogStreams, unit_pattern
from tenement.names import TenantName
from tenement.tokens import Scope, Token, TokenStore

log = logging.getLogger(__name__)

_FORBIDDEN: Final = "The token does not allow this"
_PEER_MAX: Final = 64


class Need(enum.Enum):
    """What a token must be for."""

    ADMIN = enum.auto()
    OWN = enum.auto()
    """An administrator's token, or the one of the tenant that the first two arguments name."""


@dataclass(frozen=True, slots=True)
class Right:
    """Who may call a method over HTTP, and whether calling it changes anything, so that it is audited."""

    need: Need
    changes: bool = False


_READ: Final = Right(Need.ADMIN)
_CHANGE: Final = Right(Need.ADMIN, changes=True)
_OWN: Final = Right(Need.OWN)

RIGHTS: Final[Mapping[str, Right]] = {
    "AbortRollout": _CHANGE,
    "AddDomain": _CHANGE,
    "CreateToken": _CHANGE,
    "Deploy": _CHANGE,
    "Disable": _CHANGE,
    "Enable": _CHANGE,
    "Events": _READ,
    "Find": _READ,
    "Health": _OWN,
    "List": _READ,
    "ListDomains": _READ,
    "ListTokens": _READ,
    "Reload": _CHANGE,
    "Remove": _CHANGE,
    "RemoveDomain": _CHANGE,
    "Restart": _CHANGE,
    "ResumeRollout": _CHANGE,
    "RevokeToken": _CHANGE,
    "RollBack": _CHANGE,
    "RollOut": _CHANGE,
    "RolloutStatus": _READ,
    "Route": _CHANGE,
    "Services": _READ,
    "SetWeight": _CHANGE,
    "Spawn": _CHANGE,
    "Status": _READ,
    "Stop": _CHANGE,
    "Storage": _OWN,
    "TlsStatus": _READ,
    "Unpin": _CHANGE,
    "Usage": _READ,
}
"""The methods of dev.tenement.Manager1 that Act passes on; any other is refused."""


class Running(Protocol):
    """What is asked of the manager."""

    def exists(self, name: TenantName) -> bool:
        """Whether there is such a tenant."""


class Access:
    """Verifies tokens, and does what they allow. `methods` are all methods on the bus."""

    def __init__(self, tokens: TokenStore, events: Events, streams: LogStreams, running: Running) -> None:
        self._tokens = tokens
        self._events = events
        self._streams = streams
        self._running = running
        self._methods: Mapping[str, Method] = {}

    def offer(self, methods: Mapping[str, Method]) -> None:
        """Pass calls on to these methods."""
        self._methods = methods

    # For the HTTP API, with a token

    def verify(self, text: str) -> str:
        """The token as a JSON object. Raises Unauthorized."""
        return json.dumps(self._tokens.verify(text, time.time()).document())

    async def act(
        self, sender: str, text: str, peer: str, member: str, arguments: list[Variant]
    ) -> list[Variant]:
        """Call a method for the holder of a token; `peer` is the address that it came from.

        Raises Unauthorized, Denied, and whatever the method raises.
        """
        token = self._tokens.verify(text, time.time())
        right, method = RIGHTS.get(member), self._methods.get(member)
        values = [argument.value for argument in arguments]
        if right is None or method is None or not _allows(token, right.need, values):
            raise Denied(_FORBIDDEN)
        if [argument.signature for argument in arguments] != [each.signature for each in method.inputs]:
            raise InvalidName.of("arguments of", member, "have other types than the method's")
        if not right.changes:
            return self._results(method, await method.handler(sender, *values))
        try:
            results = await method.handler(sender, *values)
        except TenementError as error:
            self._audit(token, peer, member, values, error.code)
            raise
        self._audit(token, peer, member, values, "done")
        return self._results(method, results)

    async def open_logs(
        self,
        text: str,
        service: str,
        id_: str,
        lines: int,
        since_s: float,
        level: str,
        cursor: str,
        follow: bool,
    ) -> int:
        """A stream of a tenant's log, or of a whole service's with an empty id. See LogStreams.open."""
        token = self._tokens.verify(text, time.time())
        if not _allows(token, Need.OWN, [service, id_]):
            raise Denied(_FORBIDDEN)
        return await self._streams.open(
            unit_pattern(service, id_), lines, since_s, level, cursor, follow=follow
        )

    def open_events(self, text: str) -> int:
        """A stream of every tenant's changes. See Events.watch."""
        if self._tokens.verify(text, time.time()).scope is not Scope.ADMIN:
            raise Denied(_FORBIDDEN)
        return self._events.watch()

    def open_session(self, text: str, peer: str) -> str:
        """The text of a new session of an administrator's token, for a browser."""
        now = time.time()
        token = self._tokens.verify(text, now)
        if token.scope is not Scope.ADMIN:
            raise Denied("The dashboard needs an administrator's token")
        _, session = self._tokens.create_session(token, now)
        self._audit(token, peer, "OpenSession", [], "done")
        return session

    def close_session(self, text: str) -> None:
        """End a session; a token that is none stays."""
        token = self._tokens.verify(text, time.time())
        if token.parent is not None:
            self._tokens.revoke(token.id)

    # For administrators, over the bus or with a token

    def create_token(self, scope: str, tenant: str, name: str, expires_s: float) -> str:
        """Make a token; a JSON object with its text as `token`. `expires_s` 0 means never.

        Raises InvalidName, NotFound, Overloaded.
        """
        try:
            kind = Scope(scope)
        except ValueError:
            raise InvalidName.of("scope", scope, f"must be one of {', '.join(Scope)}") from None
        if (kind is Scope.TENANT) != bool(tenant):
            raise InvalidName.of("tenant", tenant, "goes with the scope 'tenant', and with no other")
        of = TenantName.parse(tenant) if tenant else None
        if of is not None and not self._running.exists(of):
            # Otherwise whoever spawned a tenant of this name later would find a stranger's token on it.
            raise NotFound(f"{tenant}: no such tenant", tenant=tenant)
        if len(self._tokens.all()) >= _TOKENS_MAX:
            raise Overloaded(f"there are {_TOKENS_MAX} tokens. Revoke some with 'ten token revoke'.")
        token, text = self._tokens.create(kind, of, name, expires_s or None, time.time())
        return json.dumps({**token.document(), "token": text})

    def list_tokens(self) -> str:
        """All tokens but sessions, as a JSON array, without their texts."""
        return json.dumps([token.document() for token in self._tokens.all()])

    def revoke_token(self, id_: str) -> None:
        """End a token. Raises NotFound."""
        self._tokens.revoke(id_)

    # Private

    def _audit(self, token: Token, peer: str, member: str, values: list[Any], result: str) -> None:
        """Write who did what with which result to the journal; keep it among the events."""
        shown = " ".join(str(value) for value in _told(member, values))
        target = ":".join(values[:2]) if _names_tenant(member) else ""
        what = f"{member} {shown}".strip()
        origin = peer[:_PEER_MAX] if peer.isprintable() else "?"
        log.info(
            "token %s from %s: %s: %s",
            token.label,
            origin,
            what,
            result,
            extra={
                "TENEMENT_TOKEN": token.parent or token.id,
                "TENEMENT_PEER": origin,
                "TENEMENT_ACTION": member,
                "TENEMENT_RESULT": result,
                **({"TENANT": target} if target else {}),
            },
        )
        self._events.add(target, what, None if result == "done" else result, who=token.label)

    @staticmethod
    def _results(method: Method, values: list[Any]) -> list[Variant]:
        pairs: Callable[..., Any] = zip
        return [
            Variant(output.signature, value) for output, value in pairs(method.outputs, values, strict=True)
        ]


_OF_TENANTS: Final = frozenset(
    ("AddDomain", "Deploy", "Disable", "Enable", "Remove", "Restart", "SetWeight", "Spawn", "Stop", "Unpin")
)
"""Methods that change something and whose first two arguments name a tenant."""

_TOKENS_MAX: Final = 10_000


def _allows(token: Token, need: Need, values: list[Any]) -> bool:
    """Whether a token meets a need. Nothing is looked up: that a tenant exists must not show."""
    if token.scope is Scope.ADMIN:
        return True
    own = token.scope is Scope.TENANT and token.tenant is not None and need is Need.OWN
    return own and len(values) >= 2 and values[:2] == [token.tenant.service, token.tenant.id]  # type: ignore[union-attr]


def _names_tenant(member: str) -> bool:
    return member in _OF_TENANTS


def _told(member: str, values: list[Any]) -> list[Any]:
    """The arguments as the audit shows them: the name as one word."""
    return [":".join(values[:2]), *values[2:]] if _names_tenant(member) else values
