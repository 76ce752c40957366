"""What a tenant uses, from files as the kernel writes them."""

from pathlib import Path

import pytest

from tenement.names import TenantName
from tenement.usage import Use, use_of

ALICE = TenantName("my-notes", "alice")
CPU_STAT = "usage_usec 1234567\nuser_usec 1000000\nsystem_usec 234567\nnr_periods 0\n"


def group(root: Path, **files: str) -> Path:
    """A control group of the tenant with these files; `_` stands for the dot in their names."""
    path = root / ALICE.slice / ALICE.unit
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name.replace("_", ".")).write_text(content)
    return root


def test_everything_is_read_where_all_controllers_are(tmp_path: Path) -> None:
    found = use_of(ALICE, group(tmp_path, cpu_stat=CPU_STAT, memory_current="4096\n", pids_current="3\n"))
    assert found == Use(cpu_usec=1_234_567, memory_bytes=4096, tasks=3)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # The kernel counts CPU time in every group, whatever its controllers.
        ({"cpu_stat": CPU_STAT}, Use(1_234_567, None, None)),
        ({"cpu_stat": CPU_STAT, "pids_current": "3\n"}, Use(1_234_567, None, 3)),
        ({"memory_current": "0\n"}, Use(None, 0, None)),
    ],
)
def test_what_no_controller_counts_is_none_and_not_zero(
    tmp_path: Path, files: dict[str, str], expected: Use
) -> None:
    assert use_of(ALICE, group(tmp_path, **files)) == expected


def test_a_tenant_without_a_unit_uses_nothing_that_is_known(tmp_path: Path) -> None:
    assert use_of(ALICE, tmp_path) == Use(None, None, None)
