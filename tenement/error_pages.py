"""The pages that a service brings for answers of the proxy: files in the directory that `error_pages` names.

They are sent to anybody, so only a file that every user of this host may read is one: the directory may
belong to somebody who would like to see others.
"""

import os
import stat
from pathlib import Path
from typing import Final, NamedTuple

PAGE_BYTES_MAX: Final = 64 << 10
NAMES: Final = ("400", "404", "408", "413", "429", "431", "500", "502", "503", "504", "waiting")
"""What there may be a page for, `404.html` and so on: statuses, and the wait for a start."""


class Found(NamedTuple):
    """The pages of a directory, by name without ".html", and what is wrong with the others."""

    pages: dict[str, str]
    faults: list[str]


class _Fault(Exception):
    """Why a file is no page."""


def read(directory: Path) -> Found:
    """Read the pages of a directory. Files that do not end in .html are passed over."""
    found = Found({}, [])
    try:
        files = sorted(file for file in os.listdir(directory) if file.endswith(".html"))
    except OSError as error:
        found.faults.append(f"{directory}: cannot be read: {error.strerror}")
        return found
    for file in files:
        name = file.removesuffix(".html")
        try:
            if name not in NAMES:
                raise _Fault(f"is no page of the proxy; these are: {', '.join(NAMES)}")
            found.pages[name] = _page(directory / file)
        except _Fault as fault:
            found.faults.append(f"{directory / file}: {fault}")
        except OSError as error:
            found.faults.append(f"{directory / file}: cannot be read: {error.strerror}")
    return found


def _page(path: Path) -> str:
    # Not to wait for somebody who writes into a pipe.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise _Fault("is not a file")
        if not mode & 0o004:
            raise _Fault(f"is not for everybody (its mode {stat.S_IMODE(mode):04o} lacks o+r)")
        content = file.read(PAGE_BYTES_MAX + 1)
    if len(content) > PAGE_BYTES_MAX:
        raise _Fault(f"is larger than {PAGE_BYTES_MAX >> 10} KiB")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _Fault("is not UTF-8") from None
