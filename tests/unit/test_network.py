from pathlib import Path

import pytest

from tenement.manager.directories import hide_names
from tenement.manager.network import name_servers, used_resolvers


@pytest.mark.parametrize(
    ("text", "servers", "used"),
    [
        ("nameserver 127.0.0.53\noptions edns0\n", ["127.0.0.53"], ["127.0.0.53"]),
        ("# nameserver 127.0.0.53\nnameserver 192.0.2.53\n", ["192.0.2.53"], []),
        ("nameserver 127.0.0.1\nnameserver\n", ["127.0.0.1"], []),
        ("", [], []),
    ],
)
def test_the_resolver_is_open_to_tenants_only_where_the_host_uses_it(
    tmp_path: Path, text: str, servers: list[str], used: list[str]
) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    assert name_servers(path) == servers
    assert used_resolvers(path) == used


def test_a_host_without_resolv_conf_has_no_name_servers(tmp_path: Path) -> None:
    assert name_servers(tmp_path / "none") == []


def test_tenants_pass_through_the_directory_of_their_service_and_do_not_list_it(tmp_path: Path) -> None:
    root = tmp_path / "tenement"
    (root / "old").mkdir(parents=True, mode=0o755)
    for name in ("old", "new", "new"):
        hide_names(name, root)
    assert {path.stat().st_mode & 0o777 for path in (root, root / "old", root / "new")} == {0o711}
