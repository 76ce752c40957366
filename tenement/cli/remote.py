"""`ten --server`: the same commands, over HTTP."""

import asyncio
import http.client
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlencode, urlsplit

from tenement import __version__
from tenement.client import INTERFACE, Client, Objects
from tenement.errors import (
    DBUS_PREFIX,
    Denied,
    Internal,
    InvalidName,
    TenementError,
    Unauthorized,
    Unreachable,
    from_dbus,
)
from tenement.names import check_domain

_CONNECT_TIMEOUT_S: Final = 20.0
_ACTION_TIMEOUT_S: Final = 2 * 3600.0
_ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
_PAGE: Final = 20_000


@dataclass(frozen=True, slots=True)
class Server:
    """Where the API is, and the token for it."""

    host: str
    port: int | None
    secure: bool
    token: str

    @classmethod
    def of(cls, url: str, token: str) -> Self:
        """Read `https://example.com`. Raises InvalidName."""
        parts = urlsplit(url if "://" in url else f"https://{url}")
        host = parts.hostname or ""
        try:
            port = parts.port
        except ValueError:
            host, port = "", None
        if not host or parts.scheme not in ("http", "https") or parts.path.strip("/") or parts.query:
            raise InvalidName.of("server", url, "must be like https://example.com")
        local = host in ("localhost", "127.0.0.1", "::1") or host.endswith(".localhost")
        if parts.scheme == "http" and not local:
            raise InvalidName.of(
                "server", url, "must begin with https://, or anybody on the way reads the token"
            )
        if not token:
            raise Unauthorized("There is no token: set TENEMENT_TOKEN, or name a file with --token-file")
        if not token.isascii() or not token.isprintable() or " " in token:
            raise InvalidName.of("token", "...", "must be one word, as 'ten token create' shows it")
        return cls(host, port, parts.scheme == "https", token)


class Remote(Client):
    """The API as a client of the manager; each call is a request of its own."""

    def __init__(self, server: Server) -> None:
        """Connects to nothing yet."""
        super().__init__()
        self._server = server

    async def __aenter__(self) -> Self:
        """Does nothing: there is no lasting connection."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Does nothing."""

    async def spawn(self, service: str, id_: str, *, start: bool = True) -> None:
        """See Client.spawn."""
        await self._ask("POST", "/api/instances/spawn", {"service": service, "id": id_, "start": start})

    async def stop(self, service: str, id_: str) -> None:
        """See Client.stop."""
        await self._ask("POST", f"/api/instances/{service}:{id_}/stop")

    async def restart(self, service: str, id_: str) -> None:
        """See Client.restart."""
        await self._ask("POST", f"/api/instances/{service}:{id_}/restart")

    async def remove(self, service: str, id_: str, *, purge: bool) -> None:
        """See Client.remove."""
        await self._ask("DELETE", f"/api/instances/{service}:{id_}?purge={str(purge).lower()}")

    async def enable(self, service: str, id_: str) -> None:
        """See Client.enable."""
        await self._ask("POST", f"/api/instances/{service}:{id_}/enable")

    async def disable(self, service: str, id_: str) -> None:
        """See Client.disable."""
        await self._ask("POST", f"/api/instances/{service}:{id_}/disable")

    async def set_weight(self, service: str, id_: str, weight: int) -> None:
        """See Client.set_weight."""
        await self._ask("PUT", f"/api/instances/{service}:{id_}/weight", {"weight": weight})

    async def list(self, selector: str = "") -> Objects:
        """See Client.list."""
        if ":" in selector:
            return [await self._object("GET", f"/api/instances/{selector}")]
        found: Objects = []
        while True:
            query = {"limit": _PAGE, "offset": len(found), **({"service": selector} if selector else {})}
            page = await self._list(f"/api/instances?{urlencode(query)}")
            found += page
            if len(page) < _PAGE:
                return found

    async def status(self, service: str, id_: str) -> dict[str, Any]:
        """See Client.status."""
        return await self._object("GET", f"/api/instances/{service}:{id_}")

    async def reload(self) -> dict[str, Any]:
        """See Client.reload."""
        return await self._object("POST", "/api/reload")

    async def version(self) -> str:
        """See Client.version."""
        return str((await self._object("GET", "/api/version")).get("version"))

    async def deploy(self, service: str, id_: str, weight: int, timeout_s: float) -> None:
        """See Client.deploy."""
        body = {"service": service, "id": id_, "weight": weight, "timeout": timeout_s}
        await self._ask("POST", "/api/deploy", body)

    async def route(self, service: str, from_id: str, to_id: str) -> None:
        """See Client.route."""
        await self._ask("POST", "/api/route", {"service": service, "from": from_id, "to": to_id})

    async def roll_out(
        self, selector: str, release: str, *, canary: str, batch: int, pause_after: str
    ) -> None:
        """See Client.roll_out."""
        body = {
            "selector": selector,
            "release": release,
            "canary": canary,
            "batch": batch,
            "pause_after": pause_after,
        }
        await self._ask("POST", "/api/rollouts", body)

    async def roll_back(self, service: str) -> None:
        """See Client.roll_back."""
        await self._ask("POST", f"/api/rollouts/{service}/rollback")

    async def resume_rollout(self, service: str) -> None:
        """See Client.resume_rollout."""
        await self._ask("POST", f"/api/rollouts/{service}/resume")

    async def abort_rollout(self, service: str) -> None:
        """See Client.abort_rollout."""
        await self._ask("POST", f"/api/rollouts/{service}/abort")

    async def unpin(self, service: str, id_: str) -> None:
        """See Client.unpin."""
        await self._ask("POST", f"/api/instances/{service}:{id_}/unpin")

    async def rollout_status(self, service: str) -> dict[str, Any]:
        """See Client.rollout_status."""
        return await self._object("GET", f"/api/rollouts/{service}")

    async def tls_status(self) -> dict[str, Any]:
        """See Client.tls_status."""
        return await self._object("GET", "/api/tls/status")

    async def add_domain(self, service: str, id_: str, domain: str) -> str:
        """See Client.add_domain."""
        body = {"tenant": f"{service}:{id_}", "domain": check_domain(domain)}
        return str((await self._object("POST", "/api/domains", body)).get("domain"))

    async def remove_domain(self, domain: str) -> None:
        """See Client.remove_domain."""
        await self._ask("DELETE", f"/api/domains/{check_domain(domain)}")

    async def domains(self, selector: str = "") -> Any:
        """See Client.domains."""
        return await self._list(f"/api/domains?{urlencode({'selector': selector})}")

    async def _call(
        self,
        member: str,
        signature: str,
        *arguments: object,
        interface: str = INTERFACE,
        timeout_s: float = 0.0,
    ) -> Any:
        """Refuses what HTTP does not offer."""
        raise Denied(f"{member} is not offered over HTTP: run this on the server itself")

    async def usage(self) -> Objects:
        """See Client.usage."""
        return await self._list("/api/usage")

    async def create_token(self, scope: str, tenant: str, name: str, expires_s: float) -> dict[str, Any]:
        """See Client.create_token."""
        body: dict[str, object] = {"scope": scope, "name": name}
        if tenant:
            body["tenant"] = tenant
        if expires_s:
            body["expires_s"] = expires_s
        return await self._object("POST", "/api/tokens", body)

    async def list_tokens(self) -> Objects:
        """See Client.list_tokens."""
        return await self._list("/api/tokens")

    async def revoke_token(self, id_: str) -> None:
        """See Client.revoke_token."""
        await self._ask("DELETE", f"/api/tokens/{id_}")

    async def _object(self, method: str, target: str, body: object = None) -> dict[str, Any]:
        found = await self._ask(method, target, body)
        if not isinstance(found, dict):
            raise Internal(f"The server's answer to {target} is no object")
        return found

    async def _list(self, target: str) -> Objects:
        found = await self._ask("GET", target)
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise Internal(f"The server's answer to {target} is no list of objects")
        return found

    async def _ask(self, method: str, target: str, body: object = None) -> Any:
        return await asyncio.to_thread(_exchange, self._server, method, target, body)


def follow_log(server: Server, query: dict[str, object]) -> Iterator[dict[str, Any]]:
    """Lines of the API's log stream, as they come. Raises TenementError."""
    connection = _connect(server)
    try:
        response = _send(connection, server, "GET", f"/api/logs/stream?{urlencode(query)}", None)
        if response.status != 200:
            raise _error(response.status, response.read(_ANSWER_BYTES_MAX))
        # The stream gives a sign of life every 15 s.
        if connection.sock is not None:
            connection.sock.settimeout(60.0)
        for line in response:
            if line.startswith(b"data: "):
                found = json.loads(line[6:])
                if isinstance(found, dict):
                    yield found
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable(f"The connection to {server.host} was lost: {error}") from error
    finally:
        connection.close()


def read_log(server: Server, query: dict[str, object]) -> Objects:
    """Lines of the past, oldest first. Raises TenementError."""
    found = _exchange(server, "GET", f"/api/logs?{urlencode(query)}", None)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _exchange(server: Server, method: str, target: str, body: object) -> Any:
    """One request and its answer, decoded; None if it has no content. Raises TenementError."""
    connection = _connect(server)
    try:
        response = _send(connection, server, method, target, body)
        content = response.read(_ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(f"{server.host} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status >= 300:
        raise _error(response.status, content)
    if not content:
        return None
    try:
        return json.loads(content)
    except ValueError as error:
        raise Internal(f"{server.host}: the answer is not JSON. Is this a server with tenement?") from error


def _connect(server: Server) -> http.client.HTTPConnection:
    if server.secure:
        return http.client.HTTPSConnection(
            server.host, server.port, timeout=_CONNECT_TIMEOUT_S, context=ssl.create_default_context()
        )
    return http.client.HTTPConnection(server.host, server.port, timeout=_CONNECT_TIMEOUT_S)


def _send(
    connection: http.client.HTTPConnection, server: Server, method: str, target: str, body: object
) -> http.client.HTTPResponse:
    fields = {"Authorization": f"Bearer {server.token}", "User-Agent": f"ten/{__version__}"}
    content = None
    if body is not None:
        content = json.dumps(body).encode()
        fields["Content-Type"] = "application/json"
    connection.connect()
    # Connecting is quick or fails; a start or a stop may take as long as the configuration lets it.
    connection.sock.settimeout(_ACTION_TIMEOUT_S)
    connection.request(method, target, content, fields)
    return connection.getresponse()


def _error(status: int, content: bytes) -> TenementError:
    """The error that a problem document tells."""
    try:
        problem = json.loads(content)
        code = str(problem["type"]).removeprefix("urn:tenement:problem:")
        detail = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return Unreachable(f"The server answered {status}, but not as tenement does")
    if status == 401:
        return Unauthorized(detail)
    return from_dbus(
        DBUS_PREFIX + _CODES.get(status, code) if code == "about:blank" else DBUS_PREFIX + code, detail
    )


_CODES: Final = {400: "InvalidName", 403: "Denied", 404: "NotFound", 429: "Overloaded", 503: "Overloaded"}
