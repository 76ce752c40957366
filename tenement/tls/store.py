"""Certificates as workers read them: one PEM file each, replaced in one step.

The directory is root's and group tenement-proxy may read it: the workers, and nobody else. LoadCredential=
would hand each worker its keys at its start only, while certificates come and go by the day.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from tenement.errors import InvalidConfig, Problem
from tenement.tls.reading import Checked, Facts, read, split

DIRECTORY: Final = Path("/var/lib/tenement-tls")
LINEAGES: Final = Path("/etc/letsencrypt/live")
RENEWALS: Final = Path("/etc/letsencrypt/renewal")
_SUFFIX: Final = ".pem"
_HEAD: Final = "# "
"""Begins the first line, which has the facts: reading them there takes a hundredth of the time, and readers
of PEM pass over it."""


class Store:
    """The directory of certificates. `group` is the workers' group id."""

    def __init__(self, group: int, directory: Path = DIRECTORY) -> None:
        self._group = group
        self._directory = directory

    def path(self, key: str) -> Path:
        """The file of a certificate."""
        return self._directory / (key + _SUFFIX)

    def put(self, key: str, checked: Checked) -> None:
        """Write a certificate, or replace it. Raises OSError."""
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=self._directory)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                os.fchown(descriptor, 0, self._group)
                os.fchmod(descriptor, 0o640)
                file.write(_HEAD + msgspec.json.encode(checked.facts).decode() + "\n" + checked.text)
                file.flush()
                os.fsync(descriptor)
            os.replace(name, self.path(key))
        except BaseException:
            os.unlink(name)
            raise

    def remove(self, key: str) -> None:
        """Delete a certificate, if it is there."""
        self.path(key).unlink(missing_ok=True)

    def load(self) -> Iterator[tuple[str, Facts | InvalidConfig]]:
        """Every certificate that is kept, or why it cannot be used; one that has expired still can."""
        for path in sorted(self._directory.glob("[!.]*" + _SUFFIX)):
            key = path.name.removesuffix(_SUFFIX)
            try:
                yield key, _facts(path)
            except InvalidConfig as error:
                yield key, error


def _facts(path: Path) -> Facts:
    text = path.read_text("ascii", "replace")
    first, _, rest = text.partition("\n")
    try:
        return msgspec.json.decode(first.removeprefix(_HEAD), type=Facts)
    except msgspec.MsgspecError:
        return read(*split(rest if first.startswith(_HEAD) else text), str(path), now=0).facts


def read_lineage(name: str, directory: Path = LINEAGES) -> Checked:
    """What certbot has under this name. Raises InvalidConfig."""
    lineage = directory / name
    try:
        chain = (lineage / "fullchain.pem").read_text("ascii", "replace")
        key = (lineage / "privkey.pem").read_text("ascii", "replace")
    except OSError as error:
        raise InvalidConfig([Problem(f"{lineage}: {error.strerror}")]) from error
    return read(chain, key, str(lineage))


def lineage_server(name: str, directory: Path = RENEWALS) -> str | None:
    """The ACME server that a certificate of certbot's comes from; None if that is not known."""
    try:
        lines = (directory / f"{name}.conf").read_text().splitlines()
    except OSError:
        return None
    pairs = (line.partition("=") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == "server"), None)
