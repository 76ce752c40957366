"""`ten logs`: journalctl with the tenants' units chosen. See journalctl(1).

The options are journalctl's own and are passed on as they are: the output is journalctl's, byte for byte.
"""

import os
import re
import subprocess
from collections.abc import Sequence
from typing import Final, NamedTuple, NoReturn

from tenement.errors import InvalidName, NotFound
from tenement.names import TenantName, check_service


class Option(NamedTuple):
    """An option of journalctl. `value` names what it takes; `optional` is the form of an optional value."""

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
)
"""The options that are passed on."""

_BY_NAME: Final = {name: option for option in OPTIONS for name in option.names}


class UnknownOption(ValueError):
    """An option that `ten logs` does not know, or one without its value."""


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes arguments apart into journalctl's options and selectors. Raises UnknownOption."""
    options: list[str] = []
    selectors: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word == "--":
            selectors += rest
            break
        if word.startswith("--"):
            options += _long(word, rest)
        elif word.startswith("-") and word != "-":
            options += _short(word, rest)
        else:
            selectors.append(word)
    return options, selectors


def _long(word: str, rest: list[str]) -> list[str]:
    name, equals, _ = word.partition("=")
    option = _known(name)
    if equals:
        if option.value is None:
            raise UnknownOption(f"{name} takes no value")
        return [word]
    return [word, *_value(option, name, rest)]


def _short(word: str, rest: list[str]) -> list[str]:
    """One word of short options: `-fn50` is -f and -n 50."""
    found: list[str] = []
    for at in range(1, len(word)):
        name = f"-{word[at]}"
        option = _known(name)
        if option.value is not None and at + 1 < len(word):
            return [*found, name + word[at + 1 :]]
        found += [name, *_value(option, name, rest)]
    return found


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


def unit_matches(selectors: Sequence[str]) -> list[str]:
    """journalctl's options that choose the units of tenants and services. Raises InvalidName."""
    matches = []
    for selector in selectors:
        # Labels hold no "*", "?" or "[", so a pattern of ours matches nothing but one service's units.
        unit = (
            TenantName.parse(selector).unit
            if ":" in selector
            else f"tenement-{check_service(selector)}@*.service"
        )
        matches.append(f"--unit={unit}")
    return matches


def known_services() -> list[str]:
    """The services that have logged anything."""
    found = subprocess.run(
        ["journalctl", "--field=TENANT_SERVICE"],
        capture_output=True,
        check=False,
        text=True,
        errors="replace",
    )
    services = []
    for name in found.stdout.splitlines():
        try:
            services.append(check_service(name))
        except InvalidName:
            # Not tenement's: any process may write a field of this name.
            continue
    return sorted(services)


def exec_journalctl(options: Sequence[str], selectors: Sequence[str]) -> NoReturn:
    """Becomes journalctl for some tenants or services, or for all. Raises InvalidName or NotFound."""
    matches = unit_matches(selectors or known_services())
    if not matches:
        raise NotFound("no tenant has logged anything yet")
    os.execvp("journalctl", ["journalctl", *options, *matches])
