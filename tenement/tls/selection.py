"""Which certificate answers for a name: the one that has it, else the one with its wildcard. Pure.

A wildcard stands for exactly one label (RFC 9525, 6.3): `*.notes.example.com` covers
`alice.notes.example.com`, neither `notes.example.com` nor `www.alice.notes.example.com`.
"""

from collections.abc import Iterable, Mapping

import msgspec


class Certificate(msgspec.Struct, frozen=True):
    """A certificate as workers know it.

    `names` are those it is used for, in ASCII and lower case, which may be fewer than are in it. `path` is
    one PEM file with the private key and the chain; one file, because it can be replaced in one step.
    `version` changes when the file does. `issued_at` is in seconds since 1970.
    """

    names: tuple[str, ...]
    path: str
    version: str
    issued_at: float = 0.0


def wildcard_of(name: str) -> str:
    """The wildcard that covers `name`: `*.notes.example.com` for alice.notes.example.com."""
    return "*." + name.partition(".")[2]


def covers(names: Iterable[str], name: str) -> bool:
    """Whether one of some names is `name` or its wildcard."""
    wildcard = wildcard_of(name)
    return any(each in (name, wildcard) for each in names)


class Selection:
    """Finds certificates, by name. Of two for the same name the later one is used."""

    def __init__(self, certificates: Mapping[str, Certificate], default: str | None = None) -> None:
        """Clients that name no host are taken to mean `default`; without it they are refused."""
        self._by_name: dict[str, str] = {}
        for key, certificate in sorted(certificates.items(), key=lambda item: item[1].issued_at):
            self._by_name.update(dict.fromkeys(certificate.names, key))
        self._certificates = certificates
        self._default = default

    def find(self, name: str | None) -> str | None:
        """The certificate for a name, for None that of the default; None: there is none."""
        if name is None:
            return self.find(self._default) if self._default is not None else None
        return self._by_name.get(name) or self._by_name.get(wildcard_of(name))

    def default_covers(self, name: str) -> bool:
        """Whether the default certificate may answer for `name` to a client that named no host."""
        key = self.find(None)
        return key is not None and covers(self._certificates[key].names, name)
