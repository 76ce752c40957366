"""Whom `ten` talks to: the manager of this machine, or a server chosen by an option or the environment.

What is needed to talk HTTP takes longer to import than most commands need to run: only then is it imported.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tenement.client import Client
from tenement.errors import InvalidName

if TYPE_CHECKING:
    from tenement.cli.remote import Server

_chosen: dict[str, str] = {}


def choose(server: str, token: str, token_file: Path | None) -> None:
    """Use this server from now on. Raises InvalidName, if the token cannot be read."""
    if token_file is not None:
        token = _read(token_file)
    if server:
        _chosen["server"] = server
    if token:
        _chosen["token"] = token


def chosen() -> "Server | None":
    """The server to talk to; None for the manager of this machine. Raises InvalidName, Unauthorized."""
    url = _chosen.get("server") or os.environ.get("TENEMENT_SERVER", "")
    if not url:
        return None
    from tenement.cli.remote import Server

    return Server.of(url, _chosen.get("token") or _token_of_environment())


def connection() -> Client:
    """A client for the server that was chosen, or for the manager of this machine."""
    server = chosen()
    if server is None:
        return Client()
    from tenement.cli.remote import Remote

    return Remote(server)


def _token_of_environment() -> str:
    path = os.environ.get("TENEMENT_TOKEN_FILE", "")
    return os.environ.get("TENEMENT_TOKEN", "") or (_read(Path(path)) if path else "")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidName.of("token file", str(path), f"cannot be read: {error}") from error
