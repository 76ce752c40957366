"""The registry: which tenants exist. SQLite, because it survives power loss and is there on every Debian.

What can be asked of systemd (states, ports, processes) is not kept here.
"""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from tenement.errors import AlreadyExists, Internal, NotFound
from tenement.names import TenantName
from tenement.releases import SCHEMA as RELEASES
from tenement.releases import ReleaseStore
from tenement.tls.records import SCHEMA as TLS
from tenement.tls.records import TlsRecords
from tenement.tokens import SCHEMA as TOKENS
from tenement.tokens import TokenStore

log = logging.getLogger(__name__)

# One script a schema version, applied in order; a script is never changed once it was released.
_MIGRATIONS: Final = (
    """
    CREATE TABLE tenant (
        service TEXT NOT NULL,
        id TEXT NOT NULL,
        enabled INTEGER NOT NULL DEFAULT 1,
        weight INTEGER NOT NULL DEFAULT 100,
        created_at REAL NOT NULL,
        last_used_at REAL,
        PRIMARY KEY (service, id)
    ) STRICT, WITHOUT ROWID;
    """,
    TOKENS,
    TLS,
    RELEASES,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A registered tenant. Times are seconds since 1970; `last_used_at` is None before the first sleep."""

    name: TenantName
    enabled: bool
    weight: int
    created_at: float
    last_used_at: float | None


def _connect(path: Path | str, locking: str) -> sqlite3.Connection:
    """A connection in SQLite's mode WAL. Raises sqlite3.DatabaseError."""
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.execute(f"PRAGMA locking_mode = {locking}")
        database.execute("PRAGMA journal_mode = WAL")
        # With WAL, NORMAL loses no consistency at a power cut; FULL also keeps the last commits. A tenant
        # whose creation was confirmed must exist after the power cut, and creations are rare.
        database.execute("PRAGMA synchronous = FULL")
    except BaseException:
        database.close()
        raise
    return database


class Registry:
    """The database, open. Calls take well under a millisecond and may be made from the event loop."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open or create the database and bring it to the current schema.

        Raises Internal if it was written by a newer tenement, or is damaged.
        """
        try:
            try:
                database = _connect(path, "NORMAL")
            except sqlite3.OperationalError:
                # A full disk has no room for the index of the log. Whoever has the database to himself needs
                # no file for it; others (a backup) have to wait until the manager restarts.
                database = _connect(path, "EXCLUSIVE")
                log.warning("registry %s: the disk may be full; no other process can read it meanwhile", path)
            registry = cls(database)
            registry._migrate(path)
        except sqlite3.DatabaseError as error:
            raise Internal(
                f"registry {path}: {error}. Restore it from a backup, or move it away to start empty."
            ) from error
        return registry

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @property
    def releases(self) -> ReleaseStore:
        """Tenants' releases and the rollouts."""
        return ReleaseStore(self._db)

    @property
    def tls(self) -> TlsRecords:
        """Settings, domains and failures of TLS."""
        return TlsRecords(self._db)

    @property
    def tokens(self) -> TokenStore:
        """The tokens of the HTTP API."""
        return TokenStore(self._db)

    def tenants(self) -> list[Row]:
        """Every registered tenant, sorted by name."""
        rows = self._db.execute(
            "SELECT service, id, enabled, weight, created_at, last_used_at FROM tenant ORDER BY service, id"
        )
        return [
            Row(TenantName(service, id_), bool(enabled), weight, created_at, last_used_at)
            for service, id_, enabled, weight, created_at, last_used_at in rows
        ]

    def add(self, name: TenantName, now: float) -> Row:
        """Register a tenant. Raises AlreadyExists."""
        try:
            self._db.execute(
                "INSERT INTO tenant (service, id, created_at) VALUES (?, ?, ?)", (name.service, name.id, now)
            )
        except sqlite3.IntegrityError as error:
            raise AlreadyExists(f"{name}: exists already", tenant=str(name)) from error
        return Row(name, enabled=True, weight=100, created_at=now, last_used_at=None)

    def remove(self, name: TenantName) -> None:
        """Forget a tenant. Raises NotFound."""
        self._one("DELETE FROM tenant WHERE service = ? AND id = ?", (), name)

    def set_enabled(self, name: TenantName, enabled: bool) -> None:
        """Whether the tenant may run. Raises NotFound."""
        self._one("UPDATE tenant SET enabled = ? WHERE service = ? AND id = ?", (int(enabled),), name)

    def set_weight(self, name: TenantName, weight: int) -> None:
        """Its share of its service's requests. Raises NotFound."""
        self._one("UPDATE tenant SET weight = ? WHERE service = ? AND id = ?", (weight,), name)

    def set_last_used(self, name: TenantName, now: float) -> None:
        """When it was last in use, written when it is put to sleep. A tenant that is gone is ignored."""
        # Losing this at a power cut costs nothing but a better choice of whom to arm: no need to wait for the
        # disk.
        self._db.execute("PRAGMA synchronous = NORMAL")
        try:
            self._db.execute(
                "UPDATE tenant SET last_used_at = ? WHERE service = ? AND id = ?",
                (now, name.service, name.id),
            )
        finally:
            self._db.execute("PRAGMA synchronous = FULL")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes inside happen together or not at all."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _one(self, statement: str, values: tuple[object, ...], name: TenantName) -> None:
        if self._db.execute(statement, (*values, name.service, name.id)).rowcount != 1:
            raise NotFound(f"{name}: no such tenant", tenant=str(name))

    def _migrate(self, path: Path | str) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > len(_MIGRATIONS):
            raise Internal(
                f"registry {path}: schema {version} is newer than this tenement ({len(_MIGRATIONS)}). "
                "Install the newer package again."
            )
        for number, script in enumerate(_MIGRATIONS[version:], version + 1):
            # One transaction, so that a crash in the middle leaves the old version whole.
            self._db.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
