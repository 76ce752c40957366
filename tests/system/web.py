"""What tests of the HTTP API and the dashboard share: tokens, calls, an app that prints what it is told."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from .conftest import Box, Response

ROOT: Final = "localhost"
ASLEEP: Final = ("asleep", "arming", "armed")
"""The states of a tenant that sleeps, whatever is done to make it wake faster."""
TALKER: Final = """
[service.talker]
command = ["/usr/bin/python3", "-IS", "/src/tests/system/apps/talker.py"]
idle_timeout = 300
"""


@dataclass(frozen=True, slots=True)
class Token:
    """A token that a test made."""

    id: str
    text: str

    @property
    def fields(self) -> dict[str, str]:
        """The header field that shows it."""
        return {"Authorization": f"Bearer {self.text}"}


@contextmanager
def token(box: Box, *options: str) -> Iterator[Token]:
    """A token, made by `ten token create` with these options and revoked at the end."""
    made = json.loads(box.run(["ten", "token", "create", "--json", *options]).stdout)
    try:
        yield Token(made["id"], made["token"])
    finally:
        box.run(["ten", "token", "revoke", made["id"]], check=False)


def call(box: Box, token: Token | None, method: str, path: str, body: object = None) -> Response:
    """One request to the API."""
    fields = dict(token.fields) if token else {}
    content = None
    if body is not None:
        content = json.dumps(body)
        fields["Content-Type"] = "application/json"
    return box.http(ROOT, path, method, fields, content, timeout_s=60)


def say(box: Box, tenant: str, text: str) -> None:
    """Have a tenant of service `talker` print something."""
    service, _, id_ = tenant.partition(":")
    assert box.http(f"{id_}.{service}.localhost", "/say?" + quote(text)).status == 200


def listed(box: Box, token: Token, path: str) -> list[dict[str, Any]]:
    """The list of JSON objects at a path of the API."""
    answer = call(box, token, "GET", path)
    assert answer.status == 200, answer.body
    found = answer.json()
    assert isinstance(found, list)
    return found
