"""TLS as a worker serves it: certificates chosen in the handshake, and what is answered before any routing.

The handshake begins on one context that has no certificate; as soon as the ClientHello has named a host
(server name indication, RFC 6066, 3) the connection moves to the context of that name's certificate. Names
without one are refused with the alert unrecognized_name. Session tickets belong to the first context, so they
survive every renewal.

A tenant that sleeps is asked for in the same moment: its start runs while the handshake still needs the
client's round trips. Scanners gain nothing by it: only names that lead to a tenant count, and only few at a
time.
"""

import asyncio
import contextlib
import logging
import ssl
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

from tenement.errors import TenementError
from tenement.proxy.document import Change, Document
from tenement.proxy.hosts import BadHost, fold
from tenement.proxy.leases import Lease, Leases
from tenement.proxy.request_head import RequestHead
from tenement.proxy.routes import Table, Tenant
from tenement.proxy.tls_connection import Handshakes, TlsConnection
from tenement.tls.selection import Certificate, Selection

log = logging.getLogger(__name__)

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only. TLS 1.3 has nothing else."""

_DRAIN_S: Final = 2.0
_CONTEXTS_MAX: Final = 2000
_EARLY_WAKES_MAX: Final = 32
_EARLY_WAKES_PER_S: Final = 20.0

_CHALLENGE_PREFIX: Final = b"/.well-known/acme-challenge/"


class TlsObject(ssl.SSLObject):
    """A connection's TLS, which remembers the name that the client asked for."""

    server_name: str | None = None


def new_context() -> ssl.SSLContext:
    """A server's context as all are made, without a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = TlsObject
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


class Contexts:
    """Contexts of certificates, loaded when they are first needed; the least recently used are dropped."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[str, tuple[str, ssl.SSLContext]] = OrderedDict()

    def get(self, key: str, certificate: Certificate) -> ssl.SSLContext | None:
        """The context of a certificate, in its current version unless that cannot be read; None: there is
        none.
        """
        version, context = self._loaded.get(key, ("", None))
        if version != certificate.version:
            fresh = self._load(key, certificate)
            if fresh is None and context is None:
                return None
            context = fresh or context
            assert context is not None
            # A file that cannot be read is reported once, and the one loaded before it stays in use.
            self._loaded[key] = (certificate.version, context)
            if len(self._loaded) > _CONTEXTS_MAX:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return context

    def forget(self, key: str) -> None:
        """Drop the context of a certificate that is gone."""
        self._loaded.pop(key, None)

    @staticmethod
    def _load(key: str, certificate: Certificate) -> ssl.SSLContext | None:
        context = new_context()
        try:
            # It is not encrypted; a function keeps OpenSSL from asking at a terminal.
            context.load_cert_chain(certificate.path, password=lambda: b"")
        except (OSError, ValueError) as error:
            log.error("certificate %s cannot be loaded from %s: %s", key, certificate.path, error)
            return None
        return context


class EarlyWake:
    """Waits for a lease for a request that has yet to come."""

    def __init__(self, leases: Leases[Any], done: Callable[[], None]) -> None:
        self._leases = leases
        self._done = done

    def lease_granted(self, lease: Lease[Any]) -> None:
        """See leases.Waiter. Unused for a second, the lease is released and the tenant may sleep again."""
        self._leases.finish(lease, monotonic())
        self._done()

    def lease_failed(self, error: TenementError) -> None:
        """See leases.Waiter. The request, if one comes, will be told."""
        log.debug("no early wake: %s", error)
        self._done()


class Aside(NamedTuple):
    """An answer that needs no tenant. `fields` have a line end behind each; no `body` is a page of the
    status.
    """

    status: int
    fields: bytes = b""
    body: bytes | None = None


class Guard(Protocol):
    """What stands before the routing of one connection's requests."""

    def check(self, head: RequestHead, trusted: bool) -> Aside | None:
        """The answer to a request that must go no further. `trusted`: it comes from a trusted proxy."""


class Running(Protocol):
    """What is asked of the worker."""

    table: Table
    leases: Leases[Any]

    def watch(self) -> None:
        """There will be a lease, and so a deadline to look at."""


class Tls:
    """Everything of TLS that one worker has. `worker` gives the routes and the leases in force."""

    def __init__(self, worker: Running, clock: Callable[[], float] = monotonic) -> None:
        self._worker = worker
        self._clock = clock
        self.enabled = False
        self.hsts = b""
        self.challenges: dict[bytes, bytes] = {}
        self._default: str | None = None
        self._certificates: dict[str, Certificate] = {}
        self._contexts = Contexts()
        self._early = 0
        self._wakes = _EARLY_WAKES_PER_S
        self._counted_at = clock()
        self.selection = Selection({})
        self.plain: Guard = PlainGuard(self)
        self._context = new_context()
        self._context.sni_callback = self._hello
        self._handshakes = Handshakes()

    def replace(self, document: Document) -> None:
        """Use what a new routes document has."""
        for key in self._certificates.keys() - document.certificates.keys():
            self._contexts.forget(key)
        self.enabled = document.tls.enabled
        max_age = document.tls.hsts_s
        self.hsts = b"Strict-Transport-Security: max-age=%d" % max_age if max_age else b""
        self.challenges = {_raw(token): _raw(text) for token, text in document.challenges.items()}
        self._default = document.tls.default
        self._certificates = dict(document.certificates)
        self.selection = Selection(self._certificates, self._default)

    def change(self, change: Change) -> None:
        """Follow a change of certificates and challenges."""
        for token, text in change.challenges.items():
            if text is None:
                self.challenges.pop(_raw(token), None)
            else:
                self.challenges[_raw(token)] = _raw(text)
        for key, certificate in change.certificates.items():
            if certificate is None:
                self._certificates.pop(key, None)
                self._contexts.forget(key)
            else:
                self._certificates[key] = certificate
        if change.certificates:
            self.selection = Selection(self._certificates, self._default)

    def wrap(self, make_client: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        """The protocol of a new TCP connection on which TLS is spoken."""
        return TlsConnection(self._context, self._handshakes, make_client)

    async def drain(self) -> None:
        """Wait, but not long, for handshakes under way: their requests are still to come."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._handshakes.over(), _DRAIN_S)

    def guard(self, connection: object) -> Guard:
        """The guard of a connection: `connection` is its TLS object, or None if it has none."""
        return NameGuard(self, connection.server_name) if isinstance(connection, TlsObject) else self.plain

    # Private

    def _hello(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        """A client has named the host it wants; answers an alert, or None to go on."""
        try:
            host = fold(name.encode()) if name else None
        except BadHost:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        key = self.selection.find(host)
        context = self._contexts.get(key, self._certificates[key]) if key is not None else None
        if context is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        assert isinstance(connection, TlsObject)
        connection.server_name = host
        connection.context = context
        if host is not None:
            self._wake(host)
        return None

    def _wake(self, host: str) -> None:
        """Ask for the lease that the request will need, if it is for a tenant that may have to start."""
        worker = self._worker
        tenant = worker.table.find(host.encode(), b"/")
        if type(tenant) is not Tenant or not tenant.enabled or tenant.name in worker.leases.held:
            return
        now = self._clock()
        self._wakes = min(_EARLY_WAKES_PER_S, self._wakes + (now - self._counted_at) * _EARLY_WAKES_PER_S)
        self._counted_at = now
        if self._early >= _EARLY_WAKES_MAX or self._wakes < 1:
            return
        self._wakes -= 1
        self._early += 1
        worker.watch()
        worker.leases.wait(tenant, EarlyWake(worker.leases, self._woken))

    def _woken(self) -> None:
        self._early -= 1


class PlainGuard:
    """Before requests on port 80: challenges of the certificate authority are answered, others sent to HTTPS.

    A host that has no certificate (yet) is served here: sending its visitors to a handshake that fails would
    help nobody.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls

    def check(self, head: RequestHead, trusted: bool) -> Aside | None:
        """See Guard."""
        tls = self._tls
        if not tls.enabled and not tls.challenges:
            return None
        # Certificates go on to be renewed while HTTPS is off.
        if head.target.startswith(_CHALLENGE_PREFIX):
            return _challenge(tls, head.target)
        if not tls.enabled:
            return None
        if trusted and _arrived_by_https(head):
            return None
        try:
            host = fold(head.fields.host)
        except BadHost:
            return None  # Routing says what is wrong with it.
        if not head.target.startswith(b"/") or tls.selection.find(host) is None:
            return None
        return Aside(308, b"Location: https://%b%b\r\n" % (host.encode(), head.target))


class NameGuard:
    """Before requests of one TLS connection: they must be for the host that the handshake was for (RFC 9110,
    7.4).
    """

    def __init__(self, tls: Tls, server_name: str | None) -> None:
        self._tls = tls
        self._server_name = server_name
        self._allowed = b""

    def check(self, head: RequestHead, trusted: bool) -> Aside | None:
        """See Guard."""
        if head.target.startswith(_CHALLENGE_PREFIX):
            return _challenge(self._tls, head.target)
        host = head.fields.host
        if host == self._allowed:
            return None
        try:
            name = fold(host)
        except BadHost:
            return None
        if self._server_name is None:
            right = self._tls.selection.default_covers(name)
        else:
            right = name == self._server_name
        if not right:
            return Aside(421)
        self._allowed = host
        return None


def _challenge(tls: Tls, target: bytes) -> Aside:
    """The answer to a certificate authority (RFC 8555, 8.3). Apps never see these paths: one of them could
    let a tenant get certificates for its own use, and none has a use for waking up.
    """
    text = tls.challenges.get(target[len(_CHALLENGE_PREFIX) :])
    if text is None:
        return Aside(404)
    return Aside(200, b"Content-Type: text/plain\r\n", text)


def _arrived_by_https(head: RequestHead) -> bool:
    """Whether a trusted proxy says that its client came by HTTPS."""
    return any(
        name == b"x-forwarded-proto" and value.strip().lower() == b"https"
        for name, value in head.fields.origin
    )


def _raw(text: str) -> bytes:
    return text.encode("ascii", "replace")
