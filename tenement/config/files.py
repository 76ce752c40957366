"""Reads the files of the configuration."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tenement.config.parser import parse_with_places
from tenement.config.places import Places
from tenement.config.settings import Config
from tenement.errors import Denied, InvalidConfig, Problem

DIRECTORY: Final = Path("/etc/tenement")
"""Where the configuration is."""


def load(paths: Iterable[Path]) -> Config:
    """The configuration in some files. Raises InvalidConfig with every problem, or Denied.

    Denied means that a file may not be read by this user.
    """
    return load_with_places(paths)[0]


def load_with_places(paths: Iterable[Path]) -> tuple[Config, Places]:
    """The same, and where each key was set."""
    texts: dict[str, str] = {}
    problems: list[Problem] = []
    for path in paths:
        try:
            texts[str(path)] = path.read_text(encoding="utf-8")
        except PermissionError as error:
            raise Denied(
                f"You are not allowed to read {path}: become root or join group 'tenement'"
            ) from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            problems.append(Problem("not valid UTF-8", file=str(path), line=line))
        except OSError as error:
            problems.append(Problem(f"cannot be read: {error.strerror}", file=str(path)))
    try:
        found = parse_with_places(texts)
    except InvalidConfig as error:
        raise InvalidConfig([*problems, *error.problems]) from error
    if problems:
        raise InvalidConfig(problems)
    return found


def config_files(directory: Path = DIRECTORY) -> list[Path]:
    """The files that make up the configuration, in the order they are read. Raises Denied as `load` does."""
    main, drop_ins = directory / "tenement.toml", directory / "tenement.d"
    try:
        names = sorted(path.name for path in drop_ins.iterdir()) if drop_ins.is_dir() else []
        exists = main.exists()
    except PermissionError as error:
        raise Denied(
            f"You are not allowed to read {directory}: become root or join group 'tenement'"
        ) from error
    parts = [drop_ins / name for name in names if name.endswith(".toml") and not name.startswith(".")]
    return [main, *parts] if exists else parts


def load_directory(directory: Path = DIRECTORY) -> Config:
    """The configuration in a directory: tenement.toml, then tenement.d/*.toml sorted by name.

    Files that do not exist are empty. Raises as `load` does.
    """
    return load(config_files(directory))
