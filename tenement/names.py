"""Names of tenants, and everything on the machine that is named after them.

A tenant is called `service:id`, for example `notes:alice`. Both parts are labels of the Domain Name System,
because they become the host name `alice.notes.example.com`; everything else (unit, slice, user, directory) is
derived from them here and nowhere else, so that two tenants can never share any of it.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Final, Self

from tenement.errors import InvalidName

LABEL_MAX: Final = 63
"""Longest label in characters (RFC 1035, 2.3.4)."""

DOMAIN_MAX: Final = 253
"""Longest domain name in characters, without a final dot (RFC 1035, 2.3.4)."""

UNIT_NAME_MAX: Final = 255
"""Longest name of a unit (systemd counts a final NUL in its own UNIT_NAME_MAX), and of its control group."""

RESERVED_SERVICES: Final = frozenset({"log-reader", "proxy"})
"""Service names whose units would be tenement's own: tenement-proxy@1.service is the first proxy worker."""

_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_UNIT_PREFIX: Final = "tenement-"
_UNIT_SUFFIX: Final = ".service"
_STAND_IN_SUFFIX: Final = ".next.service"


def label_fault(text: str) -> str | None:
    """The rule that `text` breaks as a DNS label, as the end of a sentence; None if it breaks none."""
    if _LABEL.fullmatch(text) and text[2:4] != "--":
        return None
    if not text:
        return "must not be empty"
    if text.isascii() and text.lower() != text and label_fault(text.lower()) is None:
        return f"must be lower case: write {text.lower()!r}"
    if wrong := next((c for c in text if c not in "abcdefghijklmnopqrstuvwxyz0123456789-"), None):
        return f"may hold only a-z, 0-9 and '-', not {wrong!r}"
    if len(text) > LABEL_MAX:
        return f"must be at most {LABEL_MAX} characters long, not {len(text)}"
    if text.startswith("-") or text.endswith("-"):
        return "must not begin or end with '-'"
    # RFC 5890, 2.3.1: such labels are reserved. Browsers show "xn--" labels as other characters, which lets
    # one tenant look like another, and certificate authorities refuse the rest.
    return "must not have '--' as its third and fourth characters (reserved for internationalized names)"


def check_label(kind: str, text: str) -> str:
    """Returns `text` if it is a DNS label; `kind` says what it names ("service name", "tenant id").

    Raises InvalidName with the rule that is broken.
    """
    if fault := label_fault(text):
        raise InvalidName.of(kind, text, fault)
    return text


def check_service(text: str) -> str:
    """Returns `text` if a service may be called so. Raises InvalidName with the rule that is broken."""
    check_label("service name", text)
    if text in RESERVED_SERVICES:
        raise InvalidName.of("service name", text, "is taken by tenement's own units")
    if len(service_slice(text)) > UNIT_NAME_MAX:
        raise InvalidName.of(
            "service name", text, "has too many dashes: each takes four characters in the slice's name"
        )
    return text


def check_domain(text: str) -> str:
    """Returns a domain name in the form it is compared in: ASCII, lower case, no final dot.

    Characters outside ASCII are encoded (`bücher.example` gives `xn--bcher-kva.example`). Raises InvalidName
    with the rule that is broken.
    """
    domain = text.removesuffix(".").lower()
    if not domain.isascii():
        domain = _encode_domain(text, domain)
    if len(domain) > DOMAIN_MAX:
        raise InvalidName.of(
            "domain", text, f"must be at most {DOMAIN_MAX} characters long, not {len(domain)}"
        )
    for label in domain.split("."):
        if not label:
            raise InvalidName.of("domain", text, "must not have an empty part between its dots")
        if not _LABEL.fullmatch(label) and (fault := label_fault(label)):
            raise InvalidName.of("domain", text, f"has the part {label!r}, which {fault}")
    if domain.rpartition(".")[2].isdigit():
        raise InvalidName.of("domain", text, "must be a name, not an address")
    return domain


def _encode_domain(text: str, domain: str) -> str:
    """The ASCII form of an internationalized domain name."""
    # Python's codec follows IDNA 2003, browsers IDNA 2008, which encodes these four characters otherwise
    # (UTS 46, section 7).
    if wrong := next((c for c in domain if c in "\u00df\u03c2\u200c\u200d"), None):
        raise InvalidName.of(
            "domain", text, f"has {wrong!r}, which has two encodings: write the form that begins with xn--"
        )
    try:
        return domain.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise InvalidName.of("domain", text, "cannot be encoded for the Domain Name System") from error


def service_slice(service: str) -> str:
    r"""The slice of a service's units: `my-app` gives `tenement-my\x2dapp.slice`.

    A plain dash would nest the slice: tenement-my-app.slice lies inside tenement-my.slice (systemd.slice(5)).
    """
    return f"{_UNIT_PREFIX}{service.replace('-', r'\x2d')}.slice"


@dataclass(frozen=True, slots=True, order=True)
class TenantName:
    """A tenant's name, valid once it exists. Raises InvalidName when built from anything else."""

    service: str
    id: str

    def __post_init__(self) -> None:
        """Checks both parts."""
        check_service(self.service)
        check_label("tenant id", self.id)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `service:id`. Raises InvalidName with the rule that is broken."""
        service, colon, id_ = text.partition(":")
        if not colon:
            raise InvalidName.of("tenant", text, "must be SERVICE:ID, for example notes:alice")
        return cls(service, id_)

    @classmethod
    def parse_unit(cls, unit: str) -> Self | None:
        """The tenant whose unit is called `unit`; None if it is no tenant's unit."""
        if not (unit.startswith(_UNIT_PREFIX) and unit.endswith(_UNIT_SUFFIX)):
            return None
        # Labels hold no "@", so there is one way only to take a tenant's unit apart.
        service, at, id_ = unit[len(_UNIT_PREFIX) : -len(_UNIT_SUFFIX)].partition("@")
        try:
            return cls(service, id_) if at else None
        except InvalidName:
            return None

    def __str__(self) -> str:
        """The name as it is written: `notes:alice`."""
        return f"{self.service}:{self.id}"

    @property
    def unit(self) -> str:
        """The systemd unit: `tenement-notes@alice.service`."""
        return f"{_UNIT_PREFIX}{self.service}@{self.id}{_UNIT_SUFFIX}"

    @property
    def run_directory(self) -> str:
        """What its sockets and gates are named after: its user, because a unix socket's path is short."""
        return self.user

    @property
    def slice(self) -> str:
        """The slice of the tenant's service, inside tenement.slice."""
        return service_slice(self.service)

    @property
    def user(self) -> str:
        """The user its processes run as: `tn-` and 80 bits of a hash, 19 characters.

        systemd allows 31 characters, so the name itself does not fit. Without a user of its own, all tenants
        of a service would share one, and could kill each other.
        """
        digest = hashlib.sha256(str(self).encode()).digest()
        return "tn-" + base64.b32encode(digest[:10]).decode().lower()

    @property
    def data_directory(self) -> str:
        """The tenant's StateDirectory=, relative to /var/lib: `tenement/notes/alice`."""
        return f"tenement/{self.service}/{self.id}"

    def host(self, domain: str) -> str:
        """Its host name under the base domain `domain`: `alice.notes.example.com`."""
        return f"{self.id}.{self.service}.{domain}"


@dataclass(frozen=True, slots=True, order=True)
class StandIn(TenantName):
    """The same tenant by a second unit, which serves while the first one is replaced.

    It has the tenant's user and data, but a unit, sockets and gates of its own.
    """

    @classmethod
    def parse_unit(cls, unit: str) -> Self | None:
        """The stand-in whose unit is called `unit`; None if it is no stand-in's unit."""
        # A label holds no dot, so no tenant's unit is called so.
        plain = unit.removesuffix(_STAND_IN_SUFFIX)
        name = TenantName.parse_unit(plain + _UNIT_SUFFIX) if plain != unit else None
        return cls(name.service, name.id) if name else None

    @property
    def unit(self) -> str:
        """The systemd unit: `tenement-notes@alice.next.service`."""
        return f"{_UNIT_PREFIX}{self.service}@{self.id}{_STAND_IN_SUFFIX}"

    @property
    def run_directory(self) -> str:
        """What its sockets and gates are named after."""
        return f"{self.user}.next"


def parse_unit(unit: str) -> TenantName | None:
    """The tenant whose unit is called `unit`; None if it is no tenant's unit."""
    return TenantName.parse_unit(unit)
