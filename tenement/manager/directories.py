"""The directories that hold tenants' data: who may see what is in them."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from tenement.unit_properties import DATA_ROOT

_PASS_THROUGH: Final = 0o711


def hide_names(service_name: str, root: Path = Path(DATA_ROOT)) -> None:
    """Let tenants of a service pass through the directory of their data, but not list who else is there.

    systemd would make it at the first start, for all to read. Raises OSError.
    """
    for path in (root, root / service_name):
        with suppress(FileExistsError):
            path.mkdir()
        if path.stat().st_mode & 0o777 != _PASS_THROUGH:
            os.chmod(path, _PASS_THROUGH)
