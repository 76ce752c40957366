"""The options of `ten logs`: journalctl's own, passed on as they are, and two of tenement's. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple


class Option(NamedTuple):
    """An option. `value` names what it takes; `optional` is the form of an optional value."""

    names: tuple[str, ...]
    help: str
    value: str | None = None
    optional: re.Pattern[str] | None = None


OPTIONS: Final = (
    Option(("-f", "--follow"), "Show new lines as they come."),
    Option(("-n", "--lines"), "Show the last N lines.", "N", re.compile(r"all|\+?\d+")),
    Option(("-r", "--reverse"), "Show the newest lines first."),
    Option(("-S", "--since"), "Show lines from this time on.", "TIME"),
    Option(("-U", "--until"), "Show lines up to this time.", "TIME"),
    Option(("-g", "--grep"), "Show lines that match a regular expression.", "PATTERN"),
    Option(("-p", "--priority"), "Show lines of this priority or above.", "PRIORITY"),
    Option(
        ("-b", "--boot"),
        "Show lines of this boot, or of another.",
        "BOOT",
        re.compile(r"all|[+-]?\d+|[0-9a-f]{32}"),
    ),
    Option(("-o", "--output"), "Write lines in this format.", "FORMAT"),
    Option(("--utc",), "Write times in UTC."),
    Option(("--no-pager",), "Write to the terminal directly."),
    Option(
        ("--search",),
        'Show lines with all of these words and "quoted phrases", in any case, newest first. Much quicker '
        "than --grep in a large journal.",
        "TEXT",
    ),
    Option(
        ("--json",),
        "Write each line as a JSON object on a line of its own, with what is no UTF-8 replaced.",
    ),
)
"""The options: journalctl's are passed on as they are, and so is what it says about their values."""

_OWN: Final = frozenset({"--search", "--json"})
_BY_NAME: Final = {name: option for option in OPTIONS for name in option.names}


class UnknownOption(ValueError):
    """An option that `ten logs` does not know, or one without its value."""


@dataclass(slots=True)
class Arguments:
    """Arguments taken apart: journalctl's options as typed, all values by long name, and selectors."""

    options: list[str] = field(default_factory=list)
    values: dict[str, str | None] = field(default_factory=dict)
    selectors: list[str] = field(default_factory=list)


def read(arguments: Sequence[str]) -> Arguments:
    """Takes arguments apart. Raises UnknownOption."""
    found = Arguments()
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            found.selectors += rest
            break
        if word.startswith("--"):
            _long(word, rest, found)
        elif word.startswith("-") and word != "-":
            _short(word, rest, found)
        else:
            found.selectors.append(word)
    return found


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options for journalctl and the selectors in some arguments. Raises UnknownOption."""
    found = read(arguments)
    return found.options, found.selectors


def _long(word: str, rest: list[str], found: Arguments) -> None:
    name, equals, value = word.partition("=")
    option = _known(name)
    if equals:
        if option.value is None:
            raise UnknownOption(f"{name} takes no value")
        _keep(found, option, value, [word])
    else:
        taken = _value(option, name, rest)
        _keep(found, option, taken[0] if taken else None, [word, *taken])


def _short(word: str, rest: list[str], found: Arguments) -> None:
    """One word of short options: `-fn50` is -f and -n 50."""
    for at in range(1, len(word)):
        name = f"-{word[at]}"
        option = _known(name)
        if option.value is not None and at + 1 < len(word):
            value = word[at + 1 :]
            _keep(found, option, value, [name + value])
            return
        taken = _value(option, name, rest)
        _keep(found, option, taken[0] if taken else None, [name, *taken])


def _keep(found: Arguments, option: Option, value: str | None, words: list[str]) -> None:
    name = option.names[-1]
    found.values[name] = value
    if name not in _OWN:
        found.options += words


def _known(name: str) -> Option:
    if option := _BY_NAME.get(name):
        return option
    raise UnknownOption(f"no such option: {name}")


def _value(option: Option, name: str, rest: list[str]) -> list[str]:
    """The value that follows an option as a word of its own."""
    if option.value is None:
        return []
    if option.optional is not None:
        return [rest.pop(0)] if rest and option.optional.fullmatch(rest[0]) else []
    if not rest:
        raise UnknownOption(f"{name} needs a value: {option.value}")
    return [rest.pop(0)]
