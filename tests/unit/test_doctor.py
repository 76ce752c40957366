from pathlib import Path

import pytest

from tenement.cli.doctor import Finding, Host, doctor, examine, favordynmods
from tenement.errors import TenementError


class MadeUp(Host):
    """A host as the test wants it."""

    def __init__(self, root: Path, **files: str) -> None:
        super().__init__(root / "cgroup", root / "mounts", root / "resolv.conf")
        (root / "cgroup").mkdir()
        (root / "cgroup" / "cgroup.controllers").write_text(files.get("controllers", "cpu io memory pids"))
        options = files.get("options", "rw,nsdelegate,favordynmods")
        (root / "mounts").write_text(
            f"proc /proc proc rw 0 0\ncgroup2 {root / 'cgroup'} cgroup2 {options} 0 0\n"
        )
        (root / "resolv.conf").write_text(files.get("resolv_conf", "nameserver 127.0.0.53\n"))
        object.__setattr__(self, "said", files)

    def landlock(self) -> int:  # type: ignore[override]
        return int(self.said.get("landlock", "6"))  # type: ignore[attr-defined]

    def systemctl(self, *words: str) -> str:  # type: ignore[override]
        if words == ("--version",):
            return str(self.said.get("systemd", "systemd 257 (257.13-1)\n+PAM"))  # type: ignore[attr-defined]
        return str(self.said.get("filters", "active"))  # type: ignore[attr-defined]


def faults(host: Host) -> list[Finding]:
    return [each for each in examine(host) if each.remedy]


def test_a_host_that_enforces_all_has_nothing_to_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = MadeUp(tmp_path)
    assert faults(host) == []
    assert doctor(as_json=False, host=host) == 0
    assert all(line.startswith("ok ") for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("files", "about", "words"),
    [
        ({"controllers": "cpu io pids"}, "limits: memory", "not enforced are memory_limit_mb"),
        ({"controllers": ""}, "limits: pids", "tasks_max"),
        ({"filters": "failed"}, "network filters", "all addresses"),
        ({"landlock": "5"}, "abstract unix sockets", "cannot close"),
        ({"systemd": "systemd 255 (255.4)"}, "systemd", "version 255"),
    ],
)
def test_what_is_not_enforced_is_told_with_a_remedy(
    tmp_path: Path, files: dict[str, str], about: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    host = MadeUp(tmp_path, **files)
    (found,) = [each for each in faults(host) if each.about == about]
    assert words in found.what
    assert doctor(as_json=False, host=host) == 1
    assert f"WARN  {about}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "about"),
    [
        ({"options": "rw,nsdelegate"}, "starts"),
        ({"resolv_conf": "nameserver 127.0.0.1\n"}, "name resolution"),
    ],
)
def test_what_is_only_inconvenient_is_a_note(tmp_path: Path, files: dict[str, str], about: str) -> None:
    host = MadeUp(tmp_path, **files)
    assert [each.about for each in faults(host)] == [about]
    assert doctor(as_json=True, host=host) == 0


def test_a_name_server_elsewhere_is_enough(tmp_path: Path) -> None:
    assert faults(MadeUp(tmp_path, resolv_conf="nameserver 127.0.0.1\nnameserver 192.0.2.53\n")) == []


def test_favordynmods_needs_root_and_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = MadeUp(tmp_path, options="rw")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(TenementError, match="only root"):
        favordynmods(host)
    (tmp_path / "mounts").write_text("")
    with pytest.raises(TenementError, match="not mounted"):
        favordynmods(host)
