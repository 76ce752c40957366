"""Releases in the registry, and what a release's name and directory must be."""

from pathlib import Path

import pytest

from tenement.config import Service
from tenement.errors import Conflict, InvalidName
from tenement.names import TenantName
from tenement.registry import Registry
from tenement.releases import Standing, check_directory, check_release, has_releases
from tenement.rollout import Candidate, Kind, Phase, Rollout, Step

ALICE = TenantName("notes", "alice")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry.open(tmp_path / "registry.db")
    registry.add(ALICE, 0.0)
    return registry


def test_a_tenants_release_is_there_after_a_restart(registry: Registry, tmp_path: Path) -> None:
    registry.releases.put(ALICE, "r2", "r1", pinned=True)
    registry.close()
    store = Registry.open(tmp_path / "registry.db").releases
    assert store.standing(ALICE) == Standing("r2", "r1", pinned=True)
    assert store.of(ALICE) == "r2"
    assert store.of(TenantName("notes", "bob")) is None


def test_a_rollout_in_the_middle_is_there_after_a_restart(registry: Registry, tmp_path: Path) -> None:
    rollout = Rollout("notes", Kind.ROLLOUT, "r2", "r1", 5, True, 100.0)
    rollout.add([Candidate(TenantName("notes", f"t{n}"), "r1", False, 0.0) for n in range(30)], 2)
    registry.releases.begin(rollout)
    first = next(iter(rollout.stops))
    rollout.move(first, Step.PREPARING)
    rollout.stops[first].start = True
    registry.releases.save_stop(rollout, first)
    registry.close()
    assert Registry.open(tmp_path / "registry.db").releases.rollouts() == [rollout]


def test_a_new_rollout_replaces_the_services_last_one(registry: Registry) -> None:
    store = registry.releases
    for target in ("r2", "r3"):
        rollout = Rollout("notes", Kind.ROLLOUT, target, "r1", 5, False, 0.0, Phase.DONE)
        rollout.add([Candidate(ALICE, "r1", True, 0.0)], 1)
        store.begin(rollout)
    assert [each.target for each in store.rollouts()] == ["r3"]


def test_what_is_kept_of_a_tenant_goes_with_it(registry: Registry) -> None:
    store = registry.releases
    store.put(ALICE, "r1", None)
    store.set_prepared(ALICE, "r1", True)
    assert store.is_prepared(ALICE, "r1")
    registry.remove(ALICE)
    store.forget(ALICE)
    assert store.of(ALICE) is None
    assert registry.releases.of(ALICE) is None
    assert not store.is_prepared(ALICE, "r1")


def test_new_tenants_begin_on_the_services_release(registry: Registry) -> None:
    store = registry.releases
    assert store.current("notes") == (None, None)
    store.set_current("notes", "r1", None)
    store.set_current("notes", "r2", "r1")
    assert store.current("notes") == ("r2", "r1")


@pytest.mark.parametrize("text", ["2026-11-25", "v1.2.3+4", "a", "A_b"])
def test_names_of_releases(text: str) -> None:
    assert check_release(text) == text


@pytest.mark.parametrize("text", ["", ".", "..", "../x", "a/b", "-x", "a b", "a\n", "é", "x" * 101])
def test_names_that_would_lead_out_of_a_path_are_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        check_release(text)


def test_a_service_has_releases_if_its_program_depends_on_them() -> None:
    assert has_releases(Service(workdir="/srv/{release}", command=("./app",)))
    assert has_releases(Service(command=("/srv/{release}/app",)))
    assert not has_releases(Service(workdir="/srv/app", command=("./app",), env={"R": "{release}"}))


def test_a_releases_directory_and_programs_must_be_there(tmp_path: Path) -> None:
    service = Service(
        name="notes", workdir=f"{tmp_path}/{{release}}", command=("./app",), pre_release=("./migrate",)
    )
    with pytest.raises(Conflict, match=r"r1 does not exist"):
        check_directory(service, "r1")
    (tmp_path / "r1").mkdir(mode=0o755)
    with pytest.raises(Conflict, match=r"r1/app does not exist"):
        check_directory(service, "r1")
    for program in ("app", "migrate"):
        (tmp_path / "r1" / program).touch(mode=0o755)
    (tmp_path / "r1" / "migrate").chmod(0o644)
    with pytest.raises(Conflict, match=r"migrate is not a program"):
        check_directory(service, "r1")
    (tmp_path / "r1" / "migrate").chmod(0o755)
    check_directory(service, "r1")
