"""The registry, on real files: what it keeps, and what happens when the disk does not."""

import sqlite3
from pathlib import Path

import pytest

from tenement.errors import AlreadyExists, Internal, NotFound
from tenement.names import TenantName
from tenement.registry import Registry

ALICE, BOB = TenantName("notes", "alice"), TenantName("notes", "bob")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


def test_what_was_registered_is_there_after_reopening(path: Path):
    registry = Registry.open(path)
    registry.add(BOB, 2.0)
    registry.add(ALICE, 1.0)
    registry.set_enabled(ALICE, False)
    registry.set_weight(BOB, 7)
    registry.set_last_used(BOB, 99.5)
    registry.close()
    alice, bob = Registry.open(path).tenants()
    assert (alice.name, alice.enabled, alice.weight, alice.created_at) == (ALICE, False, 100, 1.0)
    assert alice.last_used_at is None
    assert (bob.name, bob.enabled, bob.weight, bob.last_used_at) == (BOB, True, 7, 99.5)


def test_a_name_is_registered_once(path: Path):
    registry = Registry.open(path)
    registry.add(ALICE, 1.0)
    with pytest.raises(AlreadyExists):
        registry.add(ALICE, 2.0)


def test_changes_of_what_is_not_there_are_refused(path: Path):
    registry = Registry.open(path)
    for change in (
        lambda: registry.remove(ALICE),
        lambda: registry.set_enabled(ALICE, True),
        lambda: registry.set_weight(ALICE, 1),
    ):
        with pytest.raises(NotFound):
            change()
    registry.set_last_used(ALICE, 1.0)


def test_a_transaction_that_fails_leaves_nothing(path: Path):
    registry = Registry.open(path)
    with pytest.raises(RuntimeError), registry.transaction():
        registry.add(ALICE, 1.0)
        raise RuntimeError
    assert registry.tenants() == []


def test_a_registry_of_a_newer_tenement_is_refused_with_the_remedy(path: Path):
    Registry.open(path).close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 999")
    database.close()
    with pytest.raises(Internal, match="newer package"):
        Registry.open(path)


def test_a_damaged_registry_is_named_with_the_remedy(path: Path):
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(Internal, match=r"registry\.db: .*Restore it from a backup"):
        Registry.open(path)


def test_an_old_registry_is_brought_up_to_date_and_keeps_its_rows(path: Path):
    """As the first version left it."""
    from tenement import registry as module

    database = sqlite3.connect(path)
    database.executescript(f"{module._MIGRATIONS[0]}; PRAGMA user_version = 1;")
    database.execute("INSERT INTO tenant (service, id, created_at) VALUES ('notes', 'alice', 1.0)")
    database.commit()
    database.close()
    registry = Registry.open(path)
    assert [row.name for row in registry.tenants()] == [ALICE]
    registry.close()
    (version,) = sqlite3.connect(path).execute("PRAGMA user_version").fetchone()
    assert version == len(module._MIGRATIONS)


def test_a_change_that_does_not_fit_on_the_disk_fails_and_leaves_the_rest_as_it_was(path: Path):
    registry = Registry.open(path)
    registry.add(ALICE, 1.0)
    database = registry._db
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")
    added = 0
    with pytest.raises((sqlite3.OperationalError, Internal)):
        for added in range(1000):
            registry.add(TenantName("notes", f"t{added}"), 1.0)
    database.execute("PRAGMA max_page_count = 100000")
    assert len(registry.tenants()) == added + 1
    registry.add(BOB, 1.0)
    registry.close()
    assert BOB in [row.name for row in Registry.open(path).tenants()]
