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
from typing import Any, Final, Protocol

from tenement.errors import TenementError
from tenement.proxy.document import Change, Document
from tenement.proxy.guards import Guard, NameGuard, PlainGuard
from tenement.proxy.hosts import BadHost, fold
from tenement.proxy.lease import Lease
from tenement.proxy.leases import Leases
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


def _raw(text: str) -> bytes:
    return text.encode("ascii", "replace")
