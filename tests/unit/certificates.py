"""Certificates made up for tests."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)


class Made:
    """A certificate for some names and its key, signed by an authority of its own."""

    def __init__(self, *names: str, days: float = 90, began: datetime.datetime = NOW) -> None:
        self.root_key = ec.generate_private_key(ec.SECP256R1())
        self.key = ec.generate_private_key(ec.SECP256R1())
        authority = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Test Authority")])
        end = began + datetime.timedelta(days=days)
        root = _certificate(authority, authority, self.root_key.public_key(), began, end)
        root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        leaf = _certificate(x509.Name([]), authority, self.key.public_key(), began, end)
        if names:
            found = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            leaf = leaf.add_extension(found, critical=True)
        self.root_pem = _pem(root.sign(self.root_key, hashes.SHA256()))
        self.leaf_pem = _pem(leaf.sign(self.root_key, hashes.SHA256()))
        self.chain = self.leaf_pem + self.root_pem
        self.key_pem = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    began: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(began).not_valid_after(end)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
