"""`ten deploy` and `ten route`: versions of an app side by side."""

import os
import subprocess
import sys
import time

from tenement.cli.tenants import run
from tenement.cli.text import out
from tenement.errors import InvalidName, StartFailed, StartTimeout
from tenement.names import TenantName, check_service

_LAST_LINES = 10


def deploy(tenant: str, weight: int, timeout_s: float) -> int:
    """Starts a version and gives it its share; a version that fails is shown with its last lines."""
    name = TenantName.parse(tenant)
    began = time.monotonic()
    try:
        run(lambda client: client.deploy(name.service, name.id, weight, timeout_s))
    except (StartFailed, StartTimeout):
        _show_last_lines(name)
        raise
    out(f"{name}  healthy after {time.monotonic() - began:.2f} s  weight {weight}")
    return 0


def route(service: str, from_id: str, to_id: str) -> int:
    """Moves a service's requests from one version to another. Either may be written with its service."""
    check_service(service)
    source, target = _id(service, from_id), _id(service, to_id)
    run(lambda client: client.route(service, source, target))
    out(f"{service}: requests go to {target}, and no longer to {source}")
    return 0


def _id(service: str, text: str) -> str:
    name = TenantName.parse(text if ":" in text else f"{service}:{text}")
    if name.service != service:
        raise InvalidName.of("tenant", text, f"must be of service {service}")
    return name.id


def _show_last_lines(name: TenantName) -> None:
    command = [sys.argv[0], "logs", "--no-pager", "-o", "cat", "-n", str(_LAST_LINES), str(name)]
    if os.access(command[0], os.X_OK):
        subprocess.run(command, stdout=sys.stderr, check=False)
