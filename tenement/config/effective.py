"""The configuration as it is in force, defaults included, for `ten config show`. Secrets are left out."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from tenement.config.places import dotted
from tenement.config.settings import Config, Credential

NOT_SHOWN: Final = "(not shown)"

type Document = dict[str, Any]
"""Tables and values as in the files: strings, numbers, booleans, lists, tables; None for what is not set."""

_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def as_document(config: Config) -> Document:
    """The whole configuration in the shape of the files."""
    instances: dict[str, list[str]] = {}
    for name in config.instances:
        instances.setdefault(name.service, []).append(name.id)
    return {
        "settings": _table(config.settings),
        "service": {name: _table(service) for name, service in sorted(config.services.items())},
        "instances": instances,
        "routing": _table(config.routing),
    }


def as_toml(document: Document) -> str:
    """A document as TOML. What is not set becomes a comment."""
    return "\n".join(_lines((), document)).strip()


def _table(struct: msgspec.Struct) -> Document:
    """A declared struct by the keys of the files."""
    return {
        field.encode_name: _plain(getattr(struct, field.name))
        for field in msgspec.structs.fields(struct)
        if field.name != "name"
    }


def _plain(value: object) -> object:
    match value:
        case float() if value.is_integer():
            return int(value)
        case tuple():
            return [_plain(item) for item in value]
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case Credential(path=str() as path):
            return path
        case Credential(encrypted_path=str() as path):
            return {"encrypted_path": path}
        case Credential():
            return {"encrypted_value": NOT_SHOWN}
        case _:
            return value


def _lines(path: tuple[str, ...], table: Mapping[str, Any]) -> Iterable[str]:
    """The lines of a table: first its values, then the tables in it."""
    values = {key: value for key, value in table.items() if not isinstance(value, dict)}
    if values:
        yield f"[{dotted(path)}]"
    for key, value in values.items():
        name = dotted((key,))
        yield f"# {name} is not set" if value is None else f"{name} = {_value(value)}"
    if values:
        yield ""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _lines((*path, key), value)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + "".join(_ESCAPES.get(c, c) for c in value) + '"'
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case _:
            return str(value)
