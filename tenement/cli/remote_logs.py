"""`ten --server ... logs`: the log over HTTP, with the options of journalctl that make sense there."""

import sys
import time
from collections.abc import Iterable
from typing import Any, Final

from tenement.cli.logs import UnknownOption
from tenement.cli.remote import Server, follow_log, read_log
from tenement.cli.text import out, printable
from tenement.names import TenantName, check_service

_LINES: Final = 100
_LINES_MAX: Final = 10_000


def run(server: Server, arguments: Iterable[str]) -> int:
    """Show lines of one tenant or service. Raises UnknownOption, TenementError."""
    query: dict[str, object] = {"limit": _LINES}
    follow, selectors, rest = False, list[str](), list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in ("-f", "--follow"):
            follow = True
        elif name in _VALUED:
            if not equals and not rest:
                raise UnknownOption(f"{name} needs a value")
            query[_VALUED[name]] = value if equals else rest.pop(0)
        elif word == "--no-pager":
            continue
        elif word.startswith("-"):
            raise UnknownOption(f"{word} works on the server itself only")
        else:
            selectors.append(word)
    if len(selectors) != 1:
        raise UnknownOption("over HTTP, logs are of one tenant or service at a time")
    if not str(query["limit"]).isdecimal() or not 0 < int(str(query["limit"])) <= _LINES_MAX:
        raise UnknownOption(f"-n needs a number from 1 to {_LINES_MAX}")
    query |= _selection(selectors[0])
    for entry in follow_log(server, query) if follow else read_log(server, query):
        out(_line(entry))
        sys.stdout.flush()
    return 0


_VALUED: Final = {
    "-n": "limit",
    "--lines": "limit",
    "-p": "level",
    "--priority": "level",
    "--search": "search",
}


def _selection(selector: str) -> dict[str, object]:
    if ":" not in selector:
        return {"service": check_service(selector)}
    name = TenantName.parse(selector)
    return {"service": name.service, "id": name.id}


def _line(entry: dict[str, Any]) -> str:
    """A line as journalctl shows it in its short form, without what could steer a terminal."""
    at = time.strftime("%b %d %H:%M:%S", time.localtime(float(entry.get("timestamp", 0))))
    return f"{at} {entry.get('service')}:{entry.get('id')}: {printable(str(entry.get('message', '')))}"
