"""The key that workers sign visitors' cookies with (`sticky`): one for all of them, and over restarts."""

import os
import secrets
from pathlib import Path
from typing import Final

_BYTES: Final = 32


def sticky_key(path: Path) -> str:
    """The key kept at `path`, in hexadecimal digits; made if there is none that is whole. Raises OSError."""
    try:
        key = path.read_text()
    except FileNotFoundError:
        key = ""
    if len(key) == 2 * _BYTES:
        return key
    key = secrets.token_hex(_BYTES)
    replacement = path.with_suffix(".new")
    replacement.unlink(missing_ok=True)
    with open(os.open(replacement, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(key)
    replacement.replace(path)
    return key
