"""Checks the configuration against the file system: what only a start would find out otherwise.

An app runs as a user of its own, which belongs to no group of the host: what it needs must be open to all.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from tenement import error_pages
from tenement.config.files import load_with_places
from tenement.config.placeholders import placeholders_in
from tenement.config.rules import Complaint
from tenement.config.settings import Config, Service
from tenement.errors import InvalidConfig

SEARCH_PATH: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")
"""Where systemd looks for a program without a slash. See "COMMAND LINES" in systemd.service(5)."""

_HIDDEN: Final = {
    "/home": "homes are hidden from tenants",
    "/root": "homes are hidden from tenants",
    "/run": "/run is hidden from tenants",
    "/dev": "tenants have a /dev of their own",
    "/tmp": "tenants have a /tmp of their own",
    "/var/tmp": "tenants have a /var/tmp of their own",
}
_HIDDEN_FROM_PROXY: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp", "/dev")


def check(paths: Iterable[Path]) -> Config:
    """Loads some files and checks what they name. Raises InvalidConfig with every problem, or Denied."""
    config, places = load_with_places(paths)
    problems = [places.problem(c.paths[0], c.message, c.hint) for c in file_complaints(config)]
    if problems:
        raise InvalidConfig(problems)
    return config


def file_complaints(config: Config, root: Path = Path("/")) -> Iterator[Complaint]:
    """What is wrong with the files that the configuration names, seen from `root`.

    Paths with placeholders are different for each tenant, or do not exist yet, and are not looked at.
    """
    for name, service in config.services.items():
        at = ("service", name)
        if service.workdir is not None and not placeholders_in(service.workdir):
            yield from _workdir((*at, "workdir"), service, root)
        if not placeholders_in(service.command[0] + (service.workdir or "")):
            yield from _program((*at, "command"), service, root)
        if service.error_pages is not None:
            yield from _error_pages((*at, "error_pages"), service.error_pages, root)
        for key, credential in service.credentials.items():
            file = credential.path or credential.encrypted_path
            if file and not placeholders_in(file):
                yield from _credential((*at, "credentials", key), file, root)


def _workdir(at: tuple[str, ...], service: Service, root: Path) -> Iterator[Complaint]:
    workdir = service.workdir or "/"
    fault = _fault(root, workdir, want_directory=True)
    hint = None
    if fault is None and service.isolation == "namespace":
        fault = next((why for top, why in _HIDDEN.items() if _lies_in(workdir, top)), None)
        hint = "Move it to /srv or /opt."
    if fault:
        yield Complaint((at,), f"{workdir}: {fault}", hint)


def _program(at: tuple[str, ...], service: Service, root: Path) -> Iterator[Complaint]:
    program = service.command[0]
    if "/" in program:
        path = os.path.normpath(os.path.join(service.workdir or "/", program))
        if fault := _fault(root, path):
            yield Complaint((at,), f"{path}: {fault}")
        return
    if any(_fault(root, f"{directory}/{program}") is None for directory in SEARCH_PATH):
        return
    hint = None
    if service.workdir and _inside(root, f"{service.workdir}/{program}").exists():
        hint = f"For the one in workdir write ./{program}."
    yield Complaint((at,), f"{program}: not found in {', '.join(SEARCH_PATH)}", hint)


def _error_pages(at: tuple[str, ...], directory: str, root: Path) -> Iterator[Complaint]:
    fault = _fault(root, directory, want_directory=True, who="the proxy")
    hint = None
    if fault is None and (top := next((up for up in _HIDDEN_FROM_PROXY if _lies_in(directory, up)), None)):
        fault, hint = f"the proxy does not see {top}", "Move it to /srv or /opt."
    if fault:
        yield Complaint((at,), f"{directory}: {fault}", hint)
        return
    for each in error_pages.read(_inside(root, directory)).faults:
        yield Complaint((at,), each)


def _credential(at: tuple[str, ...], file: str, root: Path) -> Iterator[Complaint]:
    path = _inside(root, file)
    try:
        mode = path.stat().st_mode
    except PermissionError:
        # The file is the manager's to read, not that of whoever runs the check.
        return
    except OSError as error:
        yield Complaint((at,), f"{file}: {_reason(error)}")
        return
    if not stat.S_ISREG(mode):
        yield Complaint((at,), f"{file}: is not a file")
    elif mode & 0o007:
        yield Complaint((at,), f"{file}: is open to every user", f"Run: chmod o= {file}")


def _fault(root: Path, path: str, *, want_directory: bool = False, who: str = "tenants") -> str | None:
    """Why somebody could not enter a directory or run a program; None if they can."""
    inside = _inside(root, path)
    try:
        mode = inside.stat().st_mode
        resolved = inside.resolve()
        parents = [up for up in resolved.parents if up == root or root in up.parents]
        closed = next((up for up in parents if not up.stat().st_mode & 0o001), None)
    except OSError as error:
        return _reason(error)
    if want_directory and not stat.S_ISDIR(mode):
        return "is not a directory"
    if not want_directory and not stat.S_ISREG(mode):
        return "is not a file"
    if not want_directory and not mode & 0o111:
        return "is not executable"
    if closed is not None:
        shown = "/" + str(closed.relative_to(root))
        return f"{who} cannot enter {shown} (its mode lacks o+x)"
    if not mode & 0o001:
        return f"is closed to {who} (its mode {stat.S_IMODE(mode):04o} lacks o+x)"
    return None


def _inside(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _lies_in(path: str, top: str) -> bool:
    return path == top or path.startswith(top + "/")


def _reason(error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return "does not exist"
        case PermissionError():
            return "cannot be looked at: become root"
        case _:
            return error.strerror or "cannot be looked at"
