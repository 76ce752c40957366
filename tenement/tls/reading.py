"""Certificates and keys, read and checked before anybody relies on them. Pure: text in, facts out."""

import itertools
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tenement.errors import InvalidConfig, Problem

if TYPE_CHECKING:
    from cryptography.x509 import Certificate as X509


class Facts(msgspec.Struct, frozen=True):
    """What there is to know of a certificate. Times are seconds since 1970.

    `names` are all in the certificate; `version` is the beginning of its fingerprint.
    """

    names: tuple[str, ...]
    issuer: str
    issued_at: float
    expires_at: float
    version: str

    @property
    def renewed_at(self) -> float:
        """When certbot renews it: a third of its life before its end, half if it lives ten days or less."""
        life_s = self.expires_at - self.issued_at
        return self.expires_at - life_s / (3 if life_s > 10 * 86400 else 2)


class Checked(NamedTuple):
    """A chain and the key to it, which belong together; `text` is both as one PEM file."""

    facts: Facts
    text: str


def read(chain: str, key: str, where: str, *, now: float | None = None) -> Checked:
    """Checks a chain, leaf first, and its key. Raises InvalidConfig; `where` begins the message.

    `now` None means the present; a certificate that has expired is refused.
    """
    # Takes long to import, and without TLS is not needed.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    try:
        certificates = x509.load_pem_x509_certificates(chain.encode())
    except ValueError as error:
        raise _fault(where, "the chain is not whole PEM", error) from error
    if len(certificates) != chain.count("-----BEGIN "):
        # One that is cut short would be passed over.
        raise _fault(where, "the chain is not whole PEM")
    leaf = certificates[0]
    try:
        private = serialization.load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise _fault(where, "the private key cannot be read", error) from error
    if private.public_key() != leaf.public_key():
        raise _fault(where, "the private key is not the certificate's")
    for below, above in itertools.pairwise(certificates):
        if below.issuer != above.subject:
            raise _fault(where, "the chain is out of order or has a gap")
    names = _names(leaf)
    if not names:
        raise _fault(where, "the certificate has no DNS name")
    issued_at, expires_at = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    if expires_at <= (time.time() if now is None else now):
        when = leaf.not_valid_after_utc.strftime("%Y-%m-%d %H:%M UTC")
        raise _fault(where, f"the certificate expired at {when}")
    facts = Facts(
        names=names,
        issuer=_issuer(leaf),
        issued_at=issued_at,
        expires_at=expires_at,
        version=leaf.fingerprint(hashes.SHA256()).hex()[:16],
    )
    return Checked(facts, key.rstrip() + "\n" + chain.rstrip() + "\n")


def split(text: str) -> tuple[str, str]:
    """Key and chain from the one file that they are kept in."""
    head, marker, tail = text.partition("-----BEGIN CERTIFICATE-----")
    return marker + tail, head


def _names(leaf: "X509") -> tuple[str, ...]:
    from cryptography import x509

    try:
        extension = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))


def _issuer(leaf: "X509") -> str:
    from cryptography.x509.oid import NameOID

    for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME):
        for attribute in leaf.issuer.get_attributes_for_oid(oid):
            return str(attribute.value)
    return leaf.issuer.rfc4514_string()


def _fault(where: str, what: str, cause: Exception | None = None) -> InvalidConfig:
    detail = f" ({cause})" if cause is not None and str(cause) else ""
    return InvalidConfig([Problem(f"{where}: {what}{detail}")])
