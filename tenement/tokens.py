"""Bearer tokens: who may do what over HTTP.

A token reads `ten_ID_SECRET`: ID names its row in the registry, SECRET is 256 random bits of which only a
SHA-256 digest is kept. A slow hash would add nothing: it protects secrets that can be guessed, and 256 bits
cannot. Digests are compared in constant time, also for an id that does not exist.

A *session* is a token that was made from another one, for a browser: it has the rights of its parent, lives
for hours, and dies with the parent.
"""

import base64
import enum
import hashlib
import hmac
import re
import secrets
import sqlite3
from dataclasses import dataclass
from typing import Final

from tenement.errors import InvalidName, NotFound, Unauthorized
from tenement.names import TenantName

SESSION_S: Final = 12 * 3600.0
"""How long a session lasts."""

EXPIRES_MAX_S: Final = 10 * 365 * 86400.0
"""How far ahead a token may expire."""

NAME_MAX: Final = 64
"""Longest name of a token, in characters."""

NAME_PATTERN: Final = r"^[^\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*$"
"""A name has no controls, nothing invisible and nothing that turns the direction of what follows it."""

TOKEN_MAX: Final = 128
"""Longest text that is looked at as a token."""

SCHEMA: Final = """
    CREATE TABLE token (
        id TEXT NOT NULL PRIMARY KEY,
        digest BLOB NOT NULL,
        scope TEXT NOT NULL,
        tenant TEXT,
        name TEXT NOT NULL DEFAULT '',
        parent TEXT,
        created_at REAL NOT NULL,
        expires_at REAL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX token_parent ON token (parent);
    CREATE INDEX token_tenant ON token (tenant);
"""

_PREFIX: Final = "ten"
_NO_DIGEST: Final = bytes(32)
_SESSIONS_MAX: Final = 64
_REFUSED: Final = "The token is missing, unknown, expired or revoked"


class Scope(enum.StrEnum):
    """What a token is for."""

    ADMIN = "admin"
    """Everything."""
    TENANT = "tenant"
    """The logs, the health and the storage of one tenant."""
    METRICS = "metrics"
    """Reading /metrics."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token that exists. Times are seconds since 1970; `expires_at` None means never.

    `tenant` is set for Scope.TENANT only; `parent` is the id of the token that a session belongs to.
    """

    id: str
    scope: Scope
    tenant: TenantName | None
    name: str
    parent: str | None
    created_at: float
    expires_at: float | None

    @property
    def label(self) -> str:
        """How it is called where people read it: its id, and its name if it has one."""
        return f"{self.id} ({self.name})" if self.name else self.id

    def document(self) -> dict[str, object]:
        """What may be shown of it."""
        return {
            "id": self.id,
            "name": self.name,
            "scope": str(self.scope),
            "tenant": str(self.tenant) if self.tenant else None,
            "created": self.created_at,
            "expires": self.expires_at,
        }


class TokenStore:
    """The tokens in the registry's database."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database

    def create(
        self, scope: Scope, tenant: TenantName | None, name: str, expires_s: float | None, now: float
    ) -> tuple[Token, str]:
        """Make a token; gives it and its text, which is not kept. Raises InvalidName.

        `expires_s` is its lifetime in seconds, None for ever.
        """
        if len(name) > NAME_MAX or not re.fullmatch(NAME_PATTERN, name):
            rule = f"must be at most {NAME_MAX} characters, all of them visible"
            raise InvalidName.of("token name", name, rule)
        if expires_s is not None and not 0 < expires_s <= EXPIRES_MAX_S:
            raise InvalidName.of("lifetime", f"{expires_s:g} s", "must be above 0 and at most ten years")
        return self._insert(scope, tenant, name, None, now, None if expires_s is None else now + expires_s)

    def create_session(self, parent: Token, now: float) -> tuple[Token, str]:
        """Make a session of a token; of very many, the oldest end. Sessions have no sessions."""
        root = parent.parent or parent.id
        self._purge(now)
        excess = self._db.execute(
            "SELECT id FROM token WHERE parent = ? ORDER BY created_at DESC LIMIT -1 OFFSET ?",
            (root, _SESSIONS_MAX - 1),
        ).fetchall()
        for (id_,) in excess:
            self._db.execute("DELETE FROM token WHERE id = ?", (id_,))
        expires_at = now + SESSION_S
        if parent.expires_at is not None:
            expires_at = min(expires_at, parent.expires_at)
        return self._insert(parent.scope, parent.tenant, parent.name, root, now, expires_at)

    def verify(self, text: str, now: float) -> Token:
        """The token whose text this is. Raises Unauthorized, the same for every reason."""
        id_, secret = _parts(text)
        row = self._db.execute(f"SELECT {_COLUMNS}, digest FROM token WHERE id = ?", (id_,)).fetchone()
        digest = row[-1] if row else _NO_DIGEST
        same = hmac.compare_digest(digest, hashlib.sha256(secret.encode()).digest())
        if row is None or not same:
            raise Unauthorized(_REFUSED)
        token = _token(row)
        if token.expires_at is not None and token.expires_at <= now:
            raise Unauthorized(_REFUSED)
        return token

    def all(self) -> list[Token]:
        """Every token but sessions, oldest first, expired ones too."""
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM token WHERE parent IS NULL ORDER BY created_at, id")
        return [_token(row) for row in rows]

    def revoke(self, id_: str) -> Token:
        """End a token and its sessions at once. Raises NotFound."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM token WHERE id = ?", (id_,)).fetchone()
        if row is None:
            raise NotFound(f"token {id_}: no such token. See 'ten token ls'.")
        self._db.execute("DELETE FROM token WHERE id = ? OR parent = ?", (id_, id_))
        return _token(row)

    def forget_tenant(self, tenant: TenantName) -> None:
        """End the tokens of a tenant that is gone: one that gets its name later is another tenant."""
        self._db.execute("DELETE FROM token WHERE tenant = ?", (str(tenant),))

    def _insert(
        self,
        scope: Scope,
        tenant: TenantName | None,
        name: str,
        parent: str | None,
        now: float,
        expires_at: float | None,
    ) -> tuple[Token, str]:
        id_ = base64.b32encode(secrets.token_bytes(5)).decode().lower()
        secret = secrets.token_urlsafe(32)
        token = Token(id_, scope, tenant, name, parent, now, expires_at)
        self._db.execute(
            "INSERT INTO token (id, digest, scope, tenant, name, parent, created_at, expires_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                id_,
                hashlib.sha256(secret.encode()).digest(),
                str(scope),
                str(tenant) if tenant else None,
                name,
                parent,
                now,
                expires_at,
            ),
        )
        return token, f"{_PREFIX}_{id_}_{secret}"

    def _purge(self, now: float) -> None:
        """Drop sessions that have expired; expired tokens stay to be seen in the list."""
        self._db.execute("DELETE FROM token WHERE parent IS NOT NULL AND expires_at <= ?", (now,))


_COLUMNS: Final = "id, scope, tenant, name, parent, created_at, expires_at"


def _parts(text: str) -> tuple[str, str]:
    """Id and secret of a token's text; empty ones, which match nothing, if it is none."""
    if len(text) > TOKEN_MAX or not text.isascii():
        return "", ""
    prefix, _, rest = text.partition("_")
    id_, _, secret = rest.partition("_")
    return (id_, secret) if prefix == _PREFIX else ("", "")


def _token(
    row: tuple[str, str, str | None, str, str | None, float, float | None, *tuple[object, ...]],
) -> Token:
    id_, scope, tenant, name, parent, created_at, expires_at = row[:7]
    name_of = TenantName.parse(tenant) if tenant else None
    return Token(id_, Scope(scope), name_of, name, parent, created_at, expires_at)
