"""Releases: which one each tenant is on, and what a release is: a directory that a service's settings name.

`workdir = "/srv/notes/{release}"` makes `ten rollout notes --to 2026-11-25` use /srv/notes/2026-11-25.
"""

import os
import re
import sqlite3
import stat
from dataclasses import dataclass
from typing import Final

from tenement.config import Service, fill
from tenement.config.placeholders import placeholders_in
from tenement.errors import Conflict, InvalidName
from tenement.names import TenantName
from tenement.rollout import Kind, Phase, Rollout, Step, Stop

SCHEMA: Final = """
    CREATE TABLE service_release (
        service TEXT PRIMARY KEY,
        release TEXT NOT NULL,
        previous TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tenant_release (
        service TEXT NOT NULL,
        id TEXT NOT NULL,
        release TEXT NOT NULL,
        previous TEXT,
        pinned INTEGER NOT NULL DEFAULT 0,
        fresh INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (service, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tenant_prepared (
        service TEXT NOT NULL,
        id TEXT NOT NULL,
        release TEXT NOT NULL,
        PRIMARY KEY (service, id, release)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE rollout (
        service TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        target TEXT NOT NULL,
        former TEXT,
        phase TEXT NOT NULL,
        reason TEXT,
        batch INTEGER NOT NULL,
        pause_after_canary INTEGER NOT NULL,
        started_at REAL NOT NULL,
        worked_s REAL NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE rollout_stop (
        service TEXT NOT NULL,
        id TEXT NOT NULL,
        place INTEGER NOT NULL,
        canary INTEGER NOT NULL,
        step TEXT NOT NULL,
        target TEXT NOT NULL,
        former TEXT,
        start INTEGER NOT NULL DEFAULT 0,
        reason TEXT,
        PRIMARY KEY (service, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TRIGGER tenant_forgotten AFTER DELETE ON tenant BEGIN
        DELETE FROM tenant_release WHERE service = OLD.service AND id = OLD.id;
        DELETE FROM tenant_prepared WHERE service = OLD.service AND id = OLD.id;
        DELETE FROM rollout_stop WHERE service = OLD.service AND id = OLD.id;
    END;
"""
"""The registry's tables for releases and rollouts."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True, slots=True)
class Standing:
    """What release a tenant is on, the one before, and whether rollouts leave it there.

    `fresh`: it was made on this release, and never started.
    """

    release: str
    previous: str | None = None
    pinned: bool = False
    fresh: bool = False


def check_release(text: str) -> str:
    """Returns `text` if a release may be called so: it becomes part of a path. Raises InvalidName."""
    if not _NAME.fullmatch(text):
        raise InvalidName.of(
            "release",
            text,
            "may hold letters, digits, '.', '_', '+' and '-', begins with a letter or digit, and has at most "
            "100 characters",
        )
    return text


def has_releases(service: Service) -> bool:
    """Whether the service's program depends on a release."""
    words = (service.workdir or "", *service.command, *service.args)
    return any("release" in placeholders_in(word) for word in words)


def check_directory(service: Service, release: str) -> None:
    """Whether what the service's settings name exists for a release. Raises Conflict with what is missing."""
    values = {"name": service.name, "release": release, "data_dir": f"/var/lib/tenement/{service.name}"}
    workdir = service.workdir or ""
    for word, directory in (
        (workdir, True),
        (service.command[0], False),
        (_first(service.pre_release), False),
    ):
        if "/" not in word or any(name not in values for name in placeholders_in(word + workdir)):
            # Looked for in $PATH, or different for each tenant.
            continue
        path = os.path.normpath(os.path.join(fill(workdir, values), fill(word, values)))
        if fault := _fault(path, directory=directory):
            raise Conflict(f"{service.name}: release {release} cannot be used: {path} {fault}")


def _first(words: tuple[str, ...]) -> str:
    return words[0] if words else ""


def _fault(path: str, *, directory: bool) -> str | None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return "does not exist" if isinstance(error, FileNotFoundError) else error.strerror
    if directory and not stat.S_ISDIR(mode):
        return "is not a directory"
    if not directory and not (stat.S_ISREG(mode) and mode & 0o111):
        return "is not a program"
    return None if mode & 0o001 else "is closed to tenants (its mode lacks o+x)"


class ReleaseStore:
    """The registry's part about releases. What tenants are on is kept in memory too: every start asks."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database
        rows = database.execute("SELECT service, id, release, previous, pinned, fresh FROM tenant_release")
        self._standings = {
            TenantName(service, id_): Standing(release, previous, bool(pinned), bool(fresh))
            for service, id_, release, previous, pinned, fresh in rows
        }

    def standing(self, name: TenantName) -> Standing | None:
        """What a tenant is on; None if it was never put on any release."""
        return self._standings.get(name)

    def of(self, name: TenantName) -> str | None:
        """The release a tenant starts on; None if there is none."""
        standing = self._standings.get(name)
        return standing.release if standing else None

    def put(
        self,
        name: TenantName,
        release: str,
        previous: str | None,
        *,
        pinned: bool = False,
        fresh: bool = False,
    ) -> None:
        """Put a tenant on a release, from its next start on."""
        self._db.execute(
            "INSERT OR REPLACE INTO tenant_release VALUES (?, ?, ?, ?, ?, ?)",
            (name.service, name.id, release, previous, int(pinned), int(fresh)),
        )
        self._standings[name] = Standing(release, previous, pinned, fresh)

    def unput(self, name: TenantName) -> None:
        """Put a tenant on no release."""
        self._db.execute("DELETE FROM tenant_release WHERE service = ? AND id = ?", (name.service, name.id))
        self._standings.pop(name, None)

    def forget(self, name: TenantName) -> None:
        """A tenant was removed from the registry, and with it all that is about it."""
        self._standings.pop(name, None)

    def is_prepared(self, name: TenantName, release: str) -> bool:
        """Whether `pre_release` has run for a tenant and a release."""
        query = "SELECT 1 FROM tenant_prepared WHERE service = ? AND id = ? AND release = ?"
        return self._db.execute(query, (name.service, name.id, release)).fetchone() is not None

    def set_prepared(self, name: TenantName, release: str, prepared: bool) -> None:
        """Whether the tenant's data is as `pre_release` of a release has made it."""
        if prepared:
            statement = "INSERT OR IGNORE INTO tenant_prepared VALUES (?, ?, ?)"
        else:
            statement = "DELETE FROM tenant_prepared WHERE service = ? AND id = ? AND release = ?"
        self._db.execute(statement, (name.service, name.id, release))

    def current(self, service: str) -> tuple[str | None, str | None]:
        """The release of new tenants of a service, and the one before; None for none."""
        row = self._db.execute(
            "SELECT release, previous FROM service_release WHERE service = ?", (service,)
        ).fetchone()
        return (row[0], row[1]) if row else (None, None)

    def set_current(self, service: str, release: str | None, previous: str | None) -> None:
        """The release of new tenants of a service."""
        if release is None:
            self._db.execute("DELETE FROM service_release WHERE service = ?", (service,))
            return
        self._db.execute(
            "INSERT OR REPLACE INTO service_release (service, release, previous) VALUES (?, ?, ?)",
            (service, release, previous),
        )

    def rollouts(self) -> list[Rollout]:
        """The last rollout of each service, finished or not."""
        rows = self._db.execute(
            "SELECT service, kind, target, former, phase, reason, batch, pause_after_canary, started_at,"
            " worked_s FROM rollout ORDER BY service"
        ).fetchall()
        return [
            Rollout(
                service, Kind(kind), target, former, batch, bool(pause), started_at,
                Phase(phase), reason, worked_s, self._stops(service),
            )
            for service, kind, target, former, phase, reason, batch, pause, started_at, worked_s in rows
        ]  # fmt: skip

    def _stops(self, service: str) -> dict[TenantName, Stop]:
        rows = self._db.execute(
            "SELECT id, place, canary, step, target, former, start, reason FROM rollout_stop"
            " WHERE service = ? ORDER BY place",
            (service,),
        )
        return {
            TenantName(service, id_): Stop(
                place, target, former, bool(canary), Step(step), bool(start), reason
            )
            for id_, place, canary, step, target, former, start, reason in rows
        }

    def begin(self, rollout: Rollout) -> None:
        """Keep a new rollout in place of the service's last one."""
        for table in ("rollout", "rollout_stop"):
            self._db.execute(f"DELETE FROM {table} WHERE service = ?", (rollout.service,))
        self.save(rollout)
        for name in rollout.stops:
            self.save_stop(rollout, name)

    def save(self, rollout: Rollout) -> None:
        """Keep a rollout, but for its stops."""
        self._db.execute(
            "INSERT OR REPLACE INTO rollout VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                rollout.service, rollout.kind, rollout.target, rollout.former, rollout.phase, rollout.reason,
                rollout.batch, int(rollout.pause_after_canary), rollout.started_at, rollout.worked_s,
            ),
        )  # fmt: skip

    def save_stop(self, rollout: Rollout, name: TenantName) -> None:
        """Keep one stop of a rollout."""
        stop = rollout.stops[name]
        self._db.execute(
            "INSERT INTO rollout_stop VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (service, id) DO UPDATE"
            " SET step = excluded.step, former = excluded.former, start = excluded.start,"
            " reason = excluded.reason",
            (
                name.service, name.id, stop.place, int(stop.canary), stop.step, stop.target, stop.former,
                int(stop.start), stop.reason,
            ),
        )  # fmt: skip
