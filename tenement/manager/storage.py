"""Tenants' data directories: who may see their names, and what happens to a tenant that fills the disk."""

import os
from contextlib import suppress
from pathlib import Path

from tenement.unit_properties import DATA_ROOT

_PASS_THROUGH = 0o711


def hide_names(service_name: str, root: Path = Path(DATA_ROOT)) -> None:
    """Let tenants of a service pass through the directory of their data, but not list who else is there.

    systemd would make it at the first start, for all to read. Raises OSError.
    """
    for path in (root, root / service_name):
        with suppress(FileExistsError):
            path.mkdir()
        if path.stat().st_mode & 0o777 != _PASS_THROUGH:
            os.chmod(path, _PASS_THROUGH)
