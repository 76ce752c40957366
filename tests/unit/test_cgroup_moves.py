"""A process is moved to the control group that it is in."""

from pathlib import Path

import pytest

from tenement.manager.cgroup_moves import CgroupMoves


@pytest.fixture
def members(tmp_path: Path) -> Path:
    path = tmp_path / "system.slice/x.service/cgroup.procs"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def moves(root: Path, text: str) -> CgroupMoves:
    own = root / "own"
    own.write_text(text)
    return CgroupMoves(root, own)


def test_whoever_expects_a_move_makes_one_to_where_he_is(tmp_path: Path, members: Path):
    found = moves(tmp_path, "1:name=systemd:/elsewhere\n0::/system.slice/x.service\n")
    found.expect()
    found.close()
    assert members.read_text() == "0"


@pytest.mark.parametrize("text", ["", "1:name=systemd:/system.slice/x.service\n", "0::/gone.service\n"])
def test_without_a_control_group_of_its_own_nothing_happens(tmp_path: Path, members: Path, text: str):
    found = moves(tmp_path, text)
    found.expect()
    found.expect()
    found.close()
    assert members.read_text() == ""
    assert not (tmp_path / "gone.service").exists()
