"""What stands before routing: challenges of the certificate authority, redirects to HTTPS, other hosts than
the handshake's.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, NamedTuple

from tenement.proxy.hosts import BadHost, fold
from tenement.proxy.request_head import RequestHead

if TYPE_CHECKING:
    from tenement.proxy.tls import Tls

_CHALLENGE_PREFIX: Final = b"/.well-known/acme-challenge/"


class Aside(NamedTuple):
    """An answer that needs no tenant. `fields` have a line end behind each; no `body` is a page of the
    status.
    """

    status: int
    fields: bytes = b""
    body: bytes | None = None


class Guard(ABC):
    """What stands before the routing of one connection's requests."""

    @abstractmethod
    def check(self, head: RequestHead, trusted: bool) -> Aside | None:
        """The answer to a request that must go no further. `trusted`: it comes from a trusted proxy."""


class PlainGuard(Guard):
    """Before requests on port 80: challenges of the certificate authority are answered, others sent to HTTPS.

    A host that has no certificate (yet) is served here: sending its visitors to a handshake that fails would
    help nobody.
    """

    def __init__(self, tls: "Tls") -> None:
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


class NameGuard(Guard):
    """Before requests of one TLS connection: they must be for the host that the handshake was for (RFC 9110,
    7.4).
    """

    def __init__(self, tls: "Tls", server_name: str | None) -> None:
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


def _challenge(tls: "Tls", target: bytes) -> Aside:
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
