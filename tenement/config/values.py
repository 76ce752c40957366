"""Reads the values of settings: one function for each kind takes what TOML gave and returns ours.

They raise ValueError with the end of a sentence that begins with the setting: "must be an absolute path".
"""

import ipaddress
import re
import shlex
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo

from tenement.config.durations import format_duration, parse_duration
from tenement.config.placeholders import PLACEHOLDERS, placeholders_in
from tenement.config.settings import Credential, kind_of
from tenement.errors import InvalidName
from tenement.names import TenantName, check_domain, check_service

CONTRACT: Final = ("PORT", "HOST", "SOCKET_PATH", "DATA_DIR", "TENANT", "SERVICE", "INSTANCE_ID")
"""Environment variables that every app gets; the configuration cannot set them."""

BASE_DOMAIN_MAX: Final = 125
"""Longest base domain: with two labels of 63 characters before it, a host name has the most it may have."""

_TARGET_RULE: Final = "must be a tenant (SERVICE:ID) or a service, in quotes"
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_CREDENTIAL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,255}", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Fault(NamedTuple):
    """One fault inside a value: the keys below the setting's own, and the end of a sentence about it."""

    path: tuple[str, ...]
    message: str


class Faulty(ValueError):
    """Several faults in one value."""

    def __init__(self, faults: list[Fault]) -> None:
        """Takes at least one fault."""
        super().__init__("; ".join(fault.message for fault in faults))
        self.faults = faults


class Declared(NamedTuple):
    """What is declared of a setting, taken apart."""

    base: Any
    kind: str
    ge: float | None
    le: float | None
    description: str
    default: Any


def declared(field: FieldInfo) -> Declared:
    """Takes the declaration of a setting apart."""
    base, *metas = get_args(field.type)
    meta = next(m for m in metas if isinstance(m, msgspec.Meta))
    default = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    return Declared(base, kind_of(meta.extra), meta.ge, meta.le, meta.description or "", default)


_KIND_NAMES: Final = {
    "arguments": "a string or a list of strings",
    "command": "a string or a list of strings",
    "optional_command": "a string or a list of strings",
    "credentials": "a table",
    "directory": "an absolute path",
    "domains": "a domain name or a list of them",
    "environment": "a table of strings",
    "hosts": "a table of host names and targets",
    "networks": "a list of addresses or networks",
    "path": "an absolute path",
    "paths": "a table of path prefixes and targets",
    "target": "a tenant (SERVICE:ID) or a service",
    "url_path": "a path that begins with '/'",
}


def describe(setting: Declared) -> str:
    """What a setting takes, as a phrase: "a whole number from 1 to 10000"."""
    if setting.kind == "duration":
        low = f"from {format_duration(setting.ge)} " if setting.ge else ""
        return f'a span of time {low}up to {format_duration(setting.le or 0)}, in seconds or as in "5min"'
    if setting.kind:
        return _KIND_NAMES[setting.kind]
    if setting.base is bool:
        return "true or false"
    if get_origin(setting.base) is Literal:
        *most, last = (f'"{choice}"' for choice in get_args(setting.base))
        return f"{', '.join(most)} or {last}"
    return f"a whole number from {setting.ge} to {setting.le}"


def read_value(field: FieldInfo, raw: object) -> Any:
    """The value of a setting from what TOML gave. Raises ValueError with the rule that is broken."""
    setting = declared(field)
    rule = f"must be {describe(setting)}, not {shown(raw)}"
    if setting.kind == "duration":
        try:
            raw = parse_duration(raw)
        except ValueError as error:
            raise ValueError(rule) from error
    elif setting.kind:
        return _READERS[setting.kind](raw, rule)
    try:
        return msgspec.convert(raw, field.type)
    except msgspec.ValidationError as error:
        raise ValueError(rule) from error


def shown(raw: object) -> str:
    """A value as it is shown in a message: as TOML writes it, tables and lists only by their kind."""
    match raw:
        case bool():
            return "true" if raw else "false"
        case int() | float():
            return str(raw)
        case str():
            return f'"{raw}"' if len(raw) <= 60 and raw.isprintable() else "such a string"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _text(raw: object, rule: str) -> str:
    """A string without control characters or unknown placeholders."""
    if not isinstance(raw, str):
        raise ValueError(rule)
    if _CONTROL.search(raw):
        raise ValueError("must not hold control characters")
    for name in placeholders_in(raw):
        if name not in PLACEHOLDERS:
            known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
            raise ValueError(
                f"has the unknown placeholder {{{name}}} (known: {known}; {{{{{name}}}}} is the text itself)"
            )
    return raw


def _arguments(raw: object, rule: str) -> tuple[str, ...]:
    if isinstance(raw, str):
        try:
            return tuple(shlex.split(_text(raw, rule)))
        except ValueError as error:
            reason = "has a quote that is not closed" if "quotation" in str(error) else str(error)
            raise ValueError(reason) from error
    if not isinstance(raw, list):
        raise ValueError(rule)
    return tuple(_text(part, rule) for part in raw)


def _command(raw: object, rule: str) -> tuple[str, ...]:
    words = _arguments(raw, rule)
    if not words or not words[0]:
        raise ValueError("must name a program")
    return words


def _optional_command(raw: object, rule: str) -> tuple[str, ...]:
    return _command(raw, rule) if _arguments(raw, rule) else ()


def _path(raw: object, rule: str) -> str:
    return _absolute(_text(raw, rule), rule)


def _directory(raw: object, rule: str) -> str:
    path = _path(raw, rule)
    if placeholders_in(path):
        raise ValueError("must not hold placeholders: it is one for all tenants of the service")
    return path


def _absolute(path: str, rule: str) -> str:
    # The service's data directory is absolute too, once it is filled in.
    if not path.startswith(("/", "{data_dir}/")):
        raise ValueError(rule)
    if ".." in path.split("/"):
        raise ValueError("must not hold '..'")
    return path


def _url_path(raw: object, rule: str) -> str:
    if not isinstance(raw, str) or not raw.startswith("/"):
        raise ValueError(rule)
    if not raw.isascii() or not raw.isprintable() or " " in raw or "#" in raw:
        raise ValueError("must be written as in a URL, without spaces, '#' or other than ASCII characters")
    return raw


def _domains(raw: object, rule: str) -> tuple[str, ...]:
    if raw == []:
        raise ValueError("must name at least one domain")
    return _each([raw] if isinstance(raw, str) else raw, rule, _base_domain)


def _base_domain(raw: object) -> str:
    domain = _domain(raw)
    if len(domain) > BASE_DOMAIN_MAX:
        raise ValueError(
            f"has a domain longer than {BASE_DOMAIN_MAX} characters: tenants' host names would exceed 253"
        )
    return domain


def _domain(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"has {shown(raw)} in place of a domain")
    try:
        return check_domain(raw)
    except InvalidName as error:
        raise ValueError(f"has the invalid domain {shown(raw)}: it {error.rule}") from error


def _networks(raw: object, rule: str) -> tuple[str, ...]:
    return _each(raw, rule, _network)


def _network(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"has {shown(raw)} in place of an address or network")
    try:
        return str(ipaddress.ip_network(raw))
    except ValueError as error:
        if "host bits" in str(error):
            meant = ipaddress.ip_network(raw, strict=False)
            raise ValueError(f'has {shown(raw)}, an address inside a network: write "{meant}"') from error
        raise ValueError(f"has {shown(raw)}, which is no address or network") from error


def _environment(raw: object, rule: str) -> dict[str, str]:
    return _entries(raw, rule, _variable)


def _variable(name: str, raw: object) -> tuple[str, str]:
    if not _ENV_NAME.fullmatch(name):
        raise ValueError("is no name for a variable: only letters, digits and '_', no digit first")
    if name in CONTRACT or name.startswith("LISTEN_"):
        raise ValueError("is set by tenement itself")
    if isinstance(raw, int) and not isinstance(raw, bool):
        return name, str(raw)
    # The value may be a secret, whatever the help says, so no message shows it.
    return name, _text(raw, "must be a string: write it in quotes")


def _credentials(raw: object, rule: str) -> dict[str, Credential]:
    return _entries(raw, rule, _credential)


def _credential(name: str, raw: object) -> tuple[str, Credential]:
    rule = "must be an absolute path, { encrypted_path = PATH } or { encrypted_value = TEXT }"
    if not _CREDENTIAL_NAME.fullmatch(name) or name in (".", ".."):
        raise ValueError("is no name for a credential: only letters, digits, '.', '_' and '-'")
    table = {"path": raw} if isinstance(raw, str) else raw
    if not isinstance(table, dict) or len(table) != 1:
        raise ValueError(rule)
    ((way, text),) = table.items()
    if not isinstance(text, str) or not text:
        raise ValueError(rule)
    match way:
        case "path":
            return name, Credential(path=_credential_path(text, rule))
        case "encrypted_path":
            return name, Credential(encrypted_path=_credential_path(text, rule))
        case "encrypted_value":
            return name, Credential(encrypted_value="".join(text.split()))
        case _:
            raise ValueError(rule)


def _credential_path(text: str, rule: str) -> str:
    for name in placeholders_in(text):
        if name not in ("name", "id"):
            raise ValueError(f"has the placeholder {{{name}}} in a path (known there: {{name}} and {{id}})")
    return _absolute(_text(text, rule), rule)


def _target(raw: object, rule: str) -> str:
    if not isinstance(raw, str):
        raise ValueError(rule)
    try:
        return str(TenantName.parse(raw)) if ":" in raw else check_service(raw)
    except InvalidName as error:
        raise ValueError(f"has an invalid target: {error.message}") from error


def _hosts(raw: object, rule: str) -> dict[str, str]:
    return _entries(raw, rule, lambda name, target: (_domain(name), _target(target, _TARGET_RULE)))


def _paths(raw: object, rule: str) -> dict[str, str]:
    return _entries(raw, rule, _route)


def _route(prefix: str, target: object) -> tuple[str, str]:
    path = _url_path(prefix, "must begin with '/'").rstrip("/")
    if not path:
        raise ValueError('must be longer than "/": the base domain itself is tenement\'s own')
    return path, _target(target, _TARGET_RULE)


def _each[T](raw: object, rule: str, read: Callable[[object], T]) -> tuple[T, ...]:
    """Reads a list; the faults of all its items are collected."""
    if not isinstance(raw, list):
        raise ValueError(rule)
    items: list[T] = []
    faults: list[Fault] = []
    for part in raw:
        try:
            item = read(part)
            if item in items:
                raise ValueError(f"has {shown(part)} twice")
            items.append(item)
        except ValueError as error:
            faults.append(Fault((), str(error)))
    if faults:
        raise Faulty(faults)
    return tuple(items)


def _entries[T](raw: object, rule: str, read: Callable[[str, object], tuple[str, T]]) -> dict[str, T]:
    """Reads a table; the faults of all its entries are collected."""
    if not isinstance(raw, dict):
        raise ValueError(rule)
    entries: dict[str, T] = {}
    faults: list[Fault] = []
    for key, value in raw.items():
        try:
            name, item = read(key, value)
            if name in entries:
                raise ValueError("is there already, in another spelling")
            entries[name] = item
        except ValueError as error:
            faults.append(Fault((key,), str(error)))
    if faults:
        raise Faulty(faults)
    return entries


_READERS: Final[dict[str, Callable[[object, str], Any]]] = {
    "arguments": _arguments,
    "command": _command,
    "optional_command": _optional_command,
    "credentials": _credentials,
    "directory": _directory,
    "domains": _domains,
    "environment": _environment,
    "hosts": _hosts,
    "networks": _networks,
    "path": _path,
    "paths": _paths,
    "target": _target,
    "url_path": _url_path,
}
