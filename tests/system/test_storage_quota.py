"""A tenant that fills the disk."""

import json
from collections.abc import Callable

from .apps import Tenant
from .conftest import Box
from .hostile import APP

CONFIG = f"""
[service.hoarder]
command = ["/usr/bin/python3", "-IS", "{APP}"]
storage_quota_mb = 8
drain_timeout = 1
idle_timeout = 0
"""


def fill(tenant: Tenant, files: int, mb: int) -> str:
    """Have the app write so many files of so many MiB; gives the name of the error that stopped it, or ""."""
    answer = tenant.box.http(tenant.host, "/fill", "POST", body=json.dumps([files, mb]))
    assert answer.status == 200, answer
    return str(answer.json())


def test_the_kernel_stops_a_file_that_outgrows_the_quota(box: Box, tenant: Callable[..., str]) -> None:
    box.write_config("hoarder", CONFIG)
    hoarder = Tenant(box, tenant("hoarder"))
    box.run(["ten", "spawn", hoarder.name])
    assert fill(hoarder, files=1, mb=9) == "EFBIG"


def test_a_tenant_above_its_quota_is_stopped_and_starts_again_when_it_fits(
    box: Box, tenant: Callable[..., str]
) -> None:
    box.write_config("hoarder", CONFIG)
    hoarder, neighbour = Tenant(box, tenant("hoarder")), Tenant(box, tenant("hoarder"))
    box.run(["ten", "spawn", hoarder.name, neighbour.name])
    assert fill(hoarder, files=3, mb=4) == ""
    hoarder.wait("failed", timeout_s=20)
    assert not hoarder.processes()
    reason = "its data takes 13 MiB, and storage_quota_mb allows 8"
    assert reason in box.run(["ten", "ps", hoarder.name]).stdout
    assert box.http(hoarder.host).status == 502
    assert reason in box.run(["ten", "restart", hoarder.name], check=False).stderr
    assert box.http(neighbour.host).status == 200
    box.run(f"rm /var/lib/private/tenement/hoarder/{hoarder.id}/fill-*")
    box.run(["ten", "restart", hoarder.name])
    assert box.http(hoarder.host).status == 200
