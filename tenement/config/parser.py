"""From TOML texts to a Config, with every problem reported at its file, line and key.

Texts are merged table by table; a setting may be set once in all of them. Reading goes on after a problem, so
that one run shows all of them.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from msgspec.structs import FieldInfo

from tenement.config.places import Path, Places, dotted, key_lines
from tenement.config.rules import broken_rules
from tenement.config.settings import Config, Routing, Service, Settings
from tenement.config.values import Faulty, read_value, shown
from tenement.errors import InvalidConfig, InvalidName, Problem
from tenement.names import TenantName, check_label, check_service

_SECTIONS: Final = ("settings", "service", "instances", "routing")
_SYNTAX: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def parse(texts: Mapping[str, str]) -> Config:
    """The configuration in some texts, keyed by file name. Raises InvalidConfig with every problem."""
    return parse_with_places(texts)[0]


def parse_with_places(texts: Mapping[str, str]) -> tuple[Config, Places]:
    """The same, and where each key was set."""
    parser = _Parser()
    config = parser.parse(texts)
    return config, parser.places


@dataclass
class _Parser:
    """One run over some texts: what was found so far."""

    problems: list[Problem] = field(default_factory=list)
    places: Places = field(default_factory=Places)
    refused: set[Path] = field(default_factory=set)

    def parse(self, texts: Mapping[str, str]) -> Config:
        tree: dict[str, Any] = {}
        for file, text in texts.items():
            try:
                table = tomllib.loads(text)
            except tomllib.TOMLDecodeError as error:
                self.problems.append(_syntax_problem(file, text, error))
            else:
                self._merge(tree, table, (), file, key_lines(text))
        config = self._config(tree)
        if self.problems:
            order = {file: number for number, file in enumerate(texts)}
            raise InvalidConfig(
                sorted(self.problems, key=lambda p: (order.get(p.file or "", -1), p.line or 0))
            )
        return config

    def _merge(
        self, into: dict[str, Any], table: dict[str, Any], at: Path, file: str, lines: dict[Path, int]
    ) -> None:
        for key, value in table.items():
            path = (*at, key)
            first = key not in into
            if first:
                self.places.add(path, file, lines)
                into[key] = {} if isinstance(value, dict) else value
            if isinstance(value, dict) and isinstance(into[key], dict):
                self._merge(into[key], value, path, file, lines)
            elif not first:
                self._set_twice(path, file, lines)

    def _set_twice(self, path: Path, file: str, lines: dict[Path, int]) -> None:
        first_file, first_line = self.places.of(path)
        where = f"{first_file}:{first_line}" if first_line else first_file
        line = Places.line(path, lines)
        self.problems.append(Problem(f"is set already in {where}", file=file, line=line, key=dotted(path)))

    def _report(self, path: Path, message: str, hint: str | None = None) -> None:
        self.problems.append(self.places.problem(path, message, hint))

    def _config(self, tree: dict[str, Any]) -> Config:
        for key, value in tree.items():
            if key not in _SECTIONS:
                section = _nearest(key, _SECTIONS, 0.7)
                hint = f"Did you mean [{section}]?" if section else _elsewhere(key)
                self._report((key,), f"unknown {'section' if isinstance(value, dict) else 'setting'}", hint)
        config = Config(
            settings=self._struct(Settings, self._table(tree, ("settings",)), ("settings",)),
            services=(services := self._services(self._table(tree, ("service",)))),
            instances=self._instances(self._table(tree, ("instances",)), services),
            routing=self._struct(Routing, self._table(tree, ("routing",)), ("routing",)),
        )
        for complaint in broken_rules(config):
            if not any(self._is_refused(path) for path in complaint.paths):
                self._report(complaint.paths[0], complaint.message, complaint.hint)
        return config

    def _is_refused(self, path: Path) -> bool:
        return any(path[:end] in self.refused for end in range(1, len(path) + 1))

    def _services(self, tables: dict[str, Any]) -> dict[str, Service]:
        services: dict[str, Service] = {}
        for name in tables:
            path = ("service", name)
            try:
                check_service(name)
            except InvalidName as error:
                self._report(path, error.rule or error.message)
            services[name] = self._struct(Service, self._table(tables, path), path, name=name)
        return services

    def _struct[S: msgspec.Struct](
        self, cls: type[S], table: dict[str, Any], path: Path, **fixed: object
    ) -> S:
        """A struct from a table; settings that are refused have their defaults in it."""
        fields = {f.encode_name: f for f in msgspec.structs.fields(cls) if f.name not in fixed}
        values: dict[str, object] = dict(fixed)
        for key, raw in table.items():
            if key in fields:
                self._value(fields[key], raw, (*path, key), values)
                continue
            elsewhere = _elsewhere(key)
            near = _nearest(key, fields) if elsewhere is None else None
            self._report((*path, key), "unknown setting", f"Did you mean {near}?" if near else elsewhere)
            if near and near not in table:
                # It was meant to be set: that it is missing needs no line of its own.
                self.refused.add((*path, near))
        return cls(**values)

    def _value(self, setting: FieldInfo, raw: object, path: Path, values: dict[str, object]) -> None:
        """Reads one value into `values`, or reports what is wrong with it."""
        try:
            values[setting.name] = read_value(setting, raw)
        except Faulty as error:
            self.refused.add(path)
            for fault in error.faults:
                self._report((*path, *fault.path), fault.message)
        except ValueError as error:
            self.refused.add(path)
            self._report(path, str(error))

    def _instances(self, table: dict[str, Any], services: dict[str, Service]) -> tuple[TenantName, ...]:
        names: list[TenantName] = []
        for service, ids in table.items():
            path = ("instances", service)
            if service not in services:
                near = _nearest(service, services)
                self._report(path, "there is no such service", f"Did you mean {near}?" if near else None)
            elif not isinstance(ids, list):
                self._report(path, f"must be a list of tenants' ids, not {shown(ids)}")
            else:
                names += self._instances_of(service, ids, path)
        return tuple(names)

    def _instances_of(self, service: str, ids: list[Any], path: Path) -> list[TenantName]:
        names: list[TenantName] = []
        for id_ in ids:
            if not isinstance(id_, str):
                self._report(path, f"must hold tenants' ids in quotes, not {shown(id_)}")
                continue
            try:
                check_label("tenant id", id_)
                name = TenantName(service, id_)
            except InvalidName as error:
                # A wrong name of the service itself is reported with the service.
                if error.kind == "tenant id":
                    self._report(path, f"has the id {shown(id_)}, which {error.rule}")
                continue
            if name in names:
                self._report(path, f"has {shown(id_)} twice")
            names.append(name)
        return names

    def _table(self, tree: dict[str, Any], path: Path) -> dict[str, Any]:
        """A table in the tree, empty if it is absent or, which is reported, something else."""
        value = tree.get(path[-1], {})
        if isinstance(value, dict):
            return value
        self._report(path, f"must be a table, not {shown(value)}", f"Write [{dotted(path)}].")
        self.refused.add(path)
        return {}


def _elsewhere(key: str) -> str | None:
    """The hint for a key that is known, but not where it is."""
    for section, cls in (("settings", Settings), ("service.NAME", Service), ("routing", Routing)):
        if key in {f.encode_name for f in msgspec.structs.fields(cls)} - {"name"}:
            return f"It belongs in [{section}]."
    return None


def _nearest(key: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The one of some known keys that is most like `key`, if any is."""
    return next(iter(difflib.get_close_matches(key, list(known), 1, cutoff)), None)


def _syntax_problem(file: str, text: str, error: tomllib.TOMLDecodeError) -> Problem:
    """The problem for a text that is no TOML. tomllib tells the line only inside its message."""
    match = _SYNTAX.search(str(error))
    line = int(match[1]) if match and match[1] else text.count("\n") + 1
    message = str(error)[: match.start()] if match else str(error)
    return Problem(f"not valid TOML: {message[:1].lower()}{message[1:]}", file=file, line=line)
