"""Client of tenement's manager, over the system bus.

The library for D-Bus takes longer to import than most commands need to run, so it is imported when a
connection is made.
"""

import asyncio
import json
import re
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from tenement.errors import DBUS_PREFIX, Denied, Internal, InvalidName, TenementError, Unreachable, from_dbus

if TYPE_CHECKING:
    from dbus_fast.aio import MessageBus

BUS_NAME: Final = "dev.tenement.Manager"
OBJECT_PATH: Final = "/dev/tenement/Manager"
INTERFACE: Final = "dev.tenement.Manager1"

type Objects = list[dict[str, Any]]
"""What lists are made of: objects of JSON."""

NOT_ALLOWED: Final = "You are not allowed to manage tenement: become root or join group 'tenement'"

# A question is answered at once, but the manager may have to be started by the bus first.
_ANSWER_TIMEOUT_S: Final = 30.0
# A start takes up to startup_timeout, a stop up to drain_timeout and stop_timeout; the manager ends both.
# This is above all of them and only keeps a lost answer from being waited for without end.
_ACTION_TIMEOUT_S: Final = 2 * 86400.0

# NUL, and what stands for bytes that are no UTF-8 (D-Bus specification, "Basic types").
_UNSENDABLE: Final = re.compile("[\0\ud800-\udfff]")

_BUS_ERROR: Final = "org.freedesktop.DBus.Error."


class Client:
    """A connection to the manager; use it as an asynchronous context manager.

    Every method raises the error that the manager answered, Denied if the caller may not manage tenement, and
    Unreachable if there is no manager.
    """

    def __init__(self) -> None:
        """Connects to nothing yet."""
        self._bus: MessageBus | None = None

    async def __aenter__(self) -> Self:
        """Connects to the system bus."""
        from dbus_fast.errors import AuthError

        from tenement.bus import message_bus

        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                self._bus = await message_bus().connect()
        except (OSError, AuthError, EOFError) as error:
            # A timeout is an OSError too.
            raise Unreachable("The system bus (dbus.service) does not answer") from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnects."""
        if self._bus is not None and self._bus.connected:
            self._bus.disconnect()

    async def spawn(self, service: str, id_: str, *, start: bool = True) -> None:
        """Makes a tenant and, unless told otherwise, starts it; returns when it is ready."""
        await self._call("Spawn", "ssb", service, id_, start, timeout_s=_ACTION_TIMEOUT_S)

    async def stop(self, service: str, id_: str) -> None:
        """Puts a tenant to sleep; returns when it is."""
        await self._call("Stop", "ss", service, id_, timeout_s=_ACTION_TIMEOUT_S)

    async def restart(self, service: str, id_: str) -> None:
        """Stops a tenant and starts it; returns when it is ready."""
        await self._call("Restart", "ss", service, id_, timeout_s=_ACTION_TIMEOUT_S)

    async def remove(self, service: str, id_: str, *, purge: bool) -> None:
        """Stops and forgets a tenant; with `purge` its data is deleted."""
        await self._call("Remove", "ssb", service, id_, purge, timeout_s=_ACTION_TIMEOUT_S)

    async def enable(self, service: str, id_: str) -> None:
        """Lets requests wake a tenant again."""
        await self._call("Enable", "ss", service, id_)

    async def disable(self, service: str, id_: str) -> None:
        """Stops a tenant and refuses requests for it."""
        await self._call("Disable", "ss", service, id_, timeout_s=_ACTION_TIMEOUT_S)

    async def set_weight(self, service: str, id_: str, weight: int) -> None:
        """Sets a tenant's share of the requests for its service."""
        await self._call("SetWeight", "ssu", service, id_, weight)

    async def deploy(self, service: str, id_: str, weight: int, timeout_s: float) -> None:
        """Starts a tenant, making it if need be, and gives it a weight once it is healthy.

        `timeout_s` 0 means the service's `startup_timeout`.
        """
        timeout_ms = round(timeout_s * 1000)
        await self._call("Deploy", "ssuu", service, id_, weight, timeout_ms, timeout_s=_ACTION_TIMEOUT_S)

    async def route(self, service: str, from_id: str, to_id: str) -> None:
        """Moves the requests for a service from one tenant to another, which is started before."""
        await self._call("Route", "sss", service, from_id, to_id, timeout_s=_ACTION_TIMEOUT_S)

    async def roll_out(
        self, selector: str, release: str, *, canary: str, batch: int, pause_after: str
    ) -> None:
        """Begins to move a service, or one tenant, to a release. "" and 0 stand for the defaults."""
        await self._call("RollOut", "sssus", selector, release, canary, batch, pause_after)

    async def roll_back(self, service: str) -> None:
        """Begins to move a service's tenants to the releases that they were on before."""
        await self._call("RollBack", "s", service)

    async def resume_rollout(self, service: str) -> None:
        """Goes on with a rollout that paused or stopped."""
        await self._call("ResumeRollout", "s", service)

    async def abort_rollout(self, service: str) -> None:
        """Ends a rollout where it is."""
        await self._call("AbortRollout", "s", service)

    async def unpin(self, service: str, id_: str) -> None:
        """Lets rollouts move a pinned tenant again."""
        await self._call("Unpin", "ss", service, id_)

    async def rollout_status(self, service: str) -> dict[str, Any]:
        """The last rollout of a service."""
        return _object("RolloutStatus", await self._call("RolloutStatus", "s", service))

    async def list(self, selector: str = "") -> Objects:
        """Tenants: all for "", those of a service for "notes", one for "notes:alice"."""
        return _objects("List", await self._call("List", "s", selector))

    async def status(self, service: str, id_: str) -> dict[str, Any]:
        """All that the manager knows of one tenant."""
        return _object("Status", await self._call("Status", "ss", service, id_))

    async def reload(self) -> dict[str, Any]:
        """Makes the manager read its configuration again: what changed, and warnings."""
        return _object("Reload", await self._call("Reload", ""))

    async def enable_tls(self, settings: str) -> None:
        """Serves HTTPS, with certificates got as the settings, a JSON object, say."""
        await self._call("EnableTls", "s", settings)

    async def disable_tls(self) -> None:
        """Serves plain HTTP again."""
        await self._call("DisableTls", "")

    async def tls_status(self) -> dict[str, Any]:
        """Every name and its certificate, or why it has none."""
        return _object("TlsStatus", await self._call("TlsStatus", ""))

    async def retry_certificate(self, name: str) -> None:
        """Orders a name again now, or all that failed for ""."""
        await self._call("RetryCertificate", "s", name)

    async def replace_certificate(self, name: str) -> None:
        """Gets a new certificate and key for a name, and revokes the old one."""
        await self._call("ReplaceCertificate", "s", name, timeout_s=_ACTION_TIMEOUT_S)

    async def add_certificate(self, name: str, chain: str, key: str) -> None:
        """Uses a certificate that certbot does not know."""
        await self._call("AddCertificate", "sss", name, chain, key)

    async def remove_certificate(self, name: str) -> None:
        """Uses such a certificate no more."""
        await self._call("RemoveCertificate", "s", name)

    async def set_challenge(self, token: str, validation: str) -> None:
        """Has the proxy answer a challenge of a certificate authority; with "" no more."""
        await self._call("SetChallenge", "ss", token, validation)

    async def add_domain(self, service: str, id_: str, domain: str) -> str:
        """Gives a domain to a tenant; returns its ASCII form."""
        return str(await self._call("AddDomain", "sss", service, id_, domain))

    async def remove_domain(self, domain: str) -> None:
        """Takes a domain from its tenant."""
        await self._call("RemoveDomain", "s", domain)

    async def domains(self, selector: str = "") -> Any:
        """Domains: all for "", those of a service for "notes", of one tenant for "notes:alice"."""
        return _document("ListDomains", await self._call("ListDomains", "s", selector))

    async def usage(self) -> Objects:
        """What the tenants that are not asleep use, and how many requests they have answered."""
        return _objects("Usage", await self._call("Usage", "s", ""))

    async def create_token(self, scope: str, tenant: str, name: str, expires_s: float) -> dict[str, Any]:
        """Makes a token of the HTTP API; its text is in the answer. `expires_s` 0 means never."""
        return _object("CreateToken", await self._call("CreateToken", "sssd", scope, tenant, name, expires_s))

    async def list_tokens(self) -> Objects:
        """Tokens of the HTTP API, without their texts."""
        return _objects("ListTokens", await self._call("ListTokens", ""))

    async def revoke_token(self, id_: str) -> None:
        """Ends a token of the HTTP API."""
        await self._call("RevokeToken", "s", id_)

    async def version(self) -> str:
        """The manager's version."""
        from dbus_fast import Variant

        answer = await self._call(
            "Get", "ss", INTERFACE, "Version", interface="org.freedesktop.DBus.Properties"
        )
        return str(answer.value if isinstance(answer, Variant) else answer)

    async def _call(
        self,
        member: str,
        signature: str,
        *arguments: object,
        interface: str = INTERFACE,
        timeout_s: float = _ANSWER_TIMEOUT_S,
    ) -> Any:
        """Calls a method and returns its only result, or None if it has none."""
        from dbus_fast import Message, MessageFlag, MessageType

        if self._bus is None:
            raise Internal("not connected to the bus")
        check_sendable(arguments)
        message = Message(
            destination=BUS_NAME,
            path=OBJECT_PATH,
            interface=interface,
            member=member,
            # An administrator's desktop may ask for the password.
            flags=MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION,
            signature=signature,
            body=list(arguments),
        )
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self._bus.call(message)
        except (OSError, EOFError) as error:
            raise Unreachable("tenement's manager does not answer") from error
        if reply is None:
            raise Unreachable("The connection to the system bus was lost")
        if reply.message_type is MessageType.ERROR:
            text = str(reply.body[0]) if reply.body else ""
            raise error_from_bus(reply.error_name or "", text)
        return reply.body[0] if reply.body else None


def check_sendable(arguments: Iterable[object]) -> None:
    """Refuse text that the bus does not carry. Raises InvalidName.

    The bus would end the connection over it, and with it the calls of everybody else.
    """
    for each in arguments:
        if isinstance(each, str) and _UNSENDABLE.search(each):
            raise InvalidName.of("name", each, "has a NUL or is not UTF-8")


def error_from_bus(name: str, text: str) -> TenementError:
    """The error for a D-Bus error, whether the manager or the bus itself sent it."""
    if name.startswith(DBUS_PREFIX):
        return from_dbus(name, text)
    match name.removeprefix(_BUS_ERROR):
        case "AccessDenied":
            return Denied(NOT_ALLOWED)
        case "ServiceUnknown" | "NameHasNoOwner":
            return Unreachable("tenement's manager is not installed")
        case "UnknownMethod" | "UnknownInterface" | "InvalidArgs":
            return Internal("The manager that runs is of another version: restart tenement-manager.service")
        case "NoReply" | "Timeout" | "TimedOut" | "Disconnected":
            return Unreachable("tenement's manager ended before it answered")
    if name.startswith((_BUS_ERROR + "Spawn.", "org.freedesktop.systemd1.")):
        return Unreachable("tenement's manager cannot be started")
    return Internal(f"{text} ({name})")


def _document(member: str, answer: object) -> Any:
    """The JSON document in an answer."""
    try:
        return json.loads(answer if isinstance(answer, str) else "")
    except ValueError as error:
        raise Internal(f"The manager's answer to {member} is not JSON") from error


def _object(member: str, answer: object) -> dict[str, Any]:
    found = _document(member, answer)
    if not isinstance(found, dict):
        raise Internal(f"The manager's answer to {member} is no object")
    return found


def _objects(member: str, answer: object) -> list[dict[str, Any]]:
    found = _document(member, answer)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise Internal(f"The manager's answer to {member} is no list of objects")
    return found
