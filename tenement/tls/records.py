"""What the registry keeps for TLS: the settings, customers' own domains, and names that could not be got."""

import sqlite3
from typing import Final

from tenement.errors import AlreadyExists, NotFound
from tenement.names import TenantName
from tenement.tls.queue import Failure
from tenement.tls.settings import TlsSettings

SCHEMA: Final = """
    CREATE TABLE domain (
        name TEXT PRIMARY KEY,
        service TEXT NOT NULL,
        id TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tls (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        settings TEXT NOT NULL
    ) STRICT;
    CREATE TABLE tls_failure (
        name TEXT PRIMARY KEY,
        count INTEGER NOT NULL,
        retry_at REAL NOT NULL,
        reason TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
"""


class TlsRecords:
    """These tables, in an open registry."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database

    def settings(self) -> TlsSettings | None:
        """What TLS was enabled with; None if it is not enabled."""
        row = self._db.execute("SELECT settings FROM tls").fetchone()
        return TlsSettings.decode(row[0]) if row else None

    def set_settings(self, text: str | None) -> None:
        """Enable TLS with these settings, or disable it."""
        if text is None:
            self._db.execute("DELETE FROM tls")
        else:
            self._db.execute("INSERT OR REPLACE INTO tls VALUES (1, ?)", (text,))

    def domains(self) -> dict[str, TenantName]:
        """Customers' own domains and the tenants they lead to."""
        rows = self._db.execute("SELECT name, service, id FROM domain ORDER BY name")
        return {name: TenantName(service, id_) for name, service, id_ in rows}

    def add_domain(self, domain: str, tenant: TenantName) -> None:
        """Give a domain to a tenant. Raises AlreadyExists if it is somebody's."""
        try:
            self._db.execute("INSERT INTO domain VALUES (?, ?, ?)", (domain, tenant.service, tenant.id))
        except sqlite3.IntegrityError as error:
            raise AlreadyExists(f"{domain}: is taken already", tenant=str(tenant)) from error

    def remove_domain(self, domain: str) -> None:
        """Take a domain from its tenant. Raises NotFound."""
        if self._db.execute("DELETE FROM domain WHERE name = ?", (domain,)).rowcount != 1:
            raise NotFound(f"{domain}: is no tenant's domain. See 'ten domain ls'")

    def failures(self) -> dict[str, Failure]:
        """Names that could not be got."""
        rows = self._db.execute("SELECT name, count, retry_at, reason FROM tls_failure")
        return {name: Failure(count, retry_at, reason) for name, count, retry_at, reason in rows}

    def set_failure(self, name: str, failure: Failure) -> None:
        """Note that a name could not be got."""
        self._db.execute("INSERT OR REPLACE INTO tls_failure VALUES (?, ?, ?, ?)", (name, *failure))

    def clear_failure(self, name: str) -> None:
        """A name was got after all, or is wanted no more."""
        self._db.execute("DELETE FROM tls_failure WHERE name = ?", (name,))
