"""How tenants end when the machine goes down, and what is there when it is up again."""

from collections.abc import Callable

import pytest

from .conftest import Box


@pytest.mark.parametrize(
    "freeze",
    [
        "systemctl freeze {unit}",
        "echo 1 >/sys/fs/cgroup/tenement.slice/tenement-notes.slice/{unit}/cgroup.freeze",
    ],
    ids=["by the operator", "by the manager"],
)
def test_a_frozen_tenant_ends_in_order_when_the_machine_reboots(
    box: Box, tenant: Callable[..., str], freeze: str
) -> None:
    name = tenant()
    id = name.partition(":")[2]
    unit = f"tenement-notes@{id}.service"
    host = f"{id}.notes.localhost"
    box.run(["ten", "spawn", name])
    assert box.http(host, "/notes", "POST", body="before").status == 201
    box.run(freeze.format(unit=unit))

    box.reboot()

    last_words = box.run(f"journalctl -b -1 -u {unit} -o cat -n 3").stdout
    assert "Deactivated successfully" in last_words, last_words
    answer = box.http(host, "/notes")
    assert answer.json() == [{"id": 1, "text": "before"}]
