"""The key of visitors' cookies."""

from pathlib import Path

import pytest

from tenement.manager.sticky_key import sticky_key


def test_a_key_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "sticky.key"
    key = sticky_key(path)
    assert len(bytes.fromhex(key)) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert sticky_key(path) == key
    assert sticky_key(tmp_path / "other.key") != key


@pytest.mark.parametrize("remains", ["", "abc"])
def test_a_key_that_was_written_in_part_is_made_anew(tmp_path: Path, remains: str) -> None:
    path = tmp_path / "sticky.key"
    path.write_text(remains)
    path.with_suffix(".new").write_text(remains)
    assert len(sticky_key(path)) == 64
