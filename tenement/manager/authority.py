"""Who of the bus policy's callers may manage at once, and of whom polkit decides.

The bus policy (dev.tenement.Manager.conf) lets root, group tenement and the package's own services call what
is theirs. It also lets members of group sudo call, who may become root anyway: they are asked for their
password here, as the rest of their desktop does it. Without polkit they are refused.
"""

import asyncio
import grp
import logging
import pwd
from dataclasses import dataclass, field
from typing import Any, Final

from dbus_fast import Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

from tenement.errors import Denied

log = logging.getLogger(__name__)

ACTION: Final = "dev.tenement.manage"
"""What polkit is asked about. See dev.tenement.manage.policy."""

GROUP: Final = "tenement"
SERVICES: Final = ("tenement-api", "tenement-proxy")
"""Users for whom the bus policy names each method."""

_BUS: Final = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_POLKIT: Final = (
    "org.freedesktop.PolicyKit1",
    "/org/freedesktop/PolicyKit1/Authority",
    "org.freedesktop.PolicyKit1.Authority",
)
_REFUSAL: Final = "You are not allowed to manage tenement: become root or join group 'tenement'"
_MAY_ASK: Final = 1  # AllowUserInteraction
# The bus answers at once; a person has to find the password.
_BUS_TIMEOUT_S: Final = 10.0
_POLKIT_TIMEOUT_S: Final = 120.0


@dataclass(slots=True)
class _Caller:
    """A client of the bus; the bus never gives its unique name to another."""

    is_known: bool | None = None
    # Keeps its first calls in order, all of which come before there is an answer.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Authority:
    """Decides for the caller of each message."""

    def __init__(self, bus: MessageBus) -> None:
        """Raises KeyError if the package's users and group do not exist."""
        self._bus = bus
        self._users = {0, *(pwd.getpwnam(name).pw_uid for name in SERVICES)}
        self._group = grp.getgrnam(GROUP).gr_gid
        self._callers: dict[str, _Caller] = {}

    async def check(self, call: Message) -> None:
        """Whether the caller may. Raises Denied."""
        name = call.sender or ""
        caller = self._callers.setdefault(name, _Caller())
        async with caller.lock:
            if caller.is_known is None:
                caller.is_known = await self._is_known(name)
        if not caller.is_known and not await self._polkit_allows(name, call.flags):
            raise Denied(_REFUSAL)

    def forget(self, name: str) -> None:
        """A client left the bus."""
        self._callers.pop(name, None)

    # Private

    async def _is_known(self, caller: str) -> bool:
        """Whether the bus policy lets the caller through for what it is."""
        (found,) = await self._ask(_BUS, "GetConnectionCredentials", "s", caller, timeout_s=_BUS_TIMEOUT_S)
        values = {key: value.value for key, value in found.items()}
        return values.get("UnixUserID") in self._users or self._group in values.get("UnixGroupIDs", ())

    async def _polkit_allows(self, caller: str, flags: MessageFlag) -> bool:
        """Whether the caller is somebody whom polkit lets manage, or shows now that he is."""
        subject = ["system-bus-name", {"name": Variant("s", caller)}]
        may_ask = _MAY_ASK if flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION else 0
        ((allowed, _, _),) = await self._ask(
            _POLKIT, "CheckAuthorization", "(sa{sv})sa{ss}us", subject, ACTION, {}, may_ask, "",
            timeout_s=_POLKIT_TIMEOUT_S,
        )  # fmt: skip
        return bool(allowed)

    async def _ask(
        self, whom: tuple[str, str, str], member: str, signature: str, *values: Any, timeout_s: float
    ) -> list[Any]:
        """Call a method. Raises Denied if there is no good answer: who cannot be judged may not."""
        destination, path, interface = whom
        message = Message(
            destination=destination, path=path, interface=interface, member=member, signature=signature,
            body=list(values),
        )  # fmt: skip
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._bus.call(message)
        except TimeoutError:
            answer = None
        if answer is None or answer.message_type is MessageType.ERROR:
            log.debug("%s: %s", member, answer.body if answer else "no answer")
            raise Denied(_REFUSAL)
        return list(answer.body)
