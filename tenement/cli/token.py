"""`ten token`: tokens of the HTTP API."""

import sys
import time
from typing import Any

from tenement.cli.tenants import run
from tenement.cli.text import Screen, ago, moment, out, out_json, printable, table
from tenement.client import Client
from tenement.config.durations import parse_duration
from tenement.errors import InvalidName
from tenement.names import TenantName


def create(tenant: str | None, scope: str, name: str, expires: str | None, *, as_json: bool) -> int:
    """Make a token and show it, once."""
    if tenant is not None:
        scope = "tenant"
    expires_s = _seconds(expires) if expires is not None else 0.0

    async def work(client: Client) -> dict[str, Any]:
        whole = await _whole_name(client, tenant) if tenant is not None else ""
        return await client.create_token(scope, whole, name, expires_s)

    made = run(work)
    if as_json:
        out_json(made)
        return 0
    out(str(made["token"]))
    if sys.stdout.isatty():
        until = f"until {moment(made['expires'])}" if made["expires"] else "until it is revoked"
        print(f"This is shown only once. It is good {until}; its id is {made['id']}.", file=sys.stderr)
    return 0


def ls(*, as_json: bool) -> int:
    """List tokens, without their texts."""
    found = run(lambda client: client.list_tokens())
    if as_json:
        out_json(found)
        return 0
    now = time.time()
    rows = [
        [
            str(each["id"]),
            str(each["scope"]),
            str(each["tenant"] or "-"),
            ago(each["created"], now),
            _until(each["expires"], now),
            printable(str(each["name"])),
        ]
        for each in found
    ]
    header = ("ID", "SCOPE", "TENANT", "CREATED", "EXPIRES", "NAME")
    for line in table(header, rows, Screen.of(sys.stdout)):
        out(line)
    return 0


def revoke(ids: list[str]) -> int:
    """End tokens, at once."""

    async def work(client: Client) -> None:
        for id_ in ids:
            # The whole text is taken too: whoever has only that can still revoke it.
            await client.revoke_token(id_.split("_")[1] if id_.count("_") >= 2 else id_)

    run(work)
    return 0


def _seconds(text: str) -> float:
    try:
        found = parse_duration(float(text) if text.replace(".", "", 1).isdecimal() else text)
    except ValueError:
        raise InvalidName.of("lifetime", text, "must be a span of time, for example 30d") from None
    if found <= 0:
        raise InvalidName.of("lifetime", text, "must be more than nothing")
    return found


async def _whole_name(client: Client, text: str) -> str:
    """The tenant meant by `notes:alice`, or by `alice` alone where only one is called so."""
    if ":" in text:
        return str(TenantName.parse(text))
    found = [str(each["tenant"]) for each in await client.list() if each.get("id") == text]
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidName.of("tenant", text, f"is the id of several: {', '.join(found)}")
    raise InvalidName.of(
        "tenant", text, "must be SERVICE:ID, for example notes:alice, or the id of one tenant"
    )


def _until(expires: float | None, now: float) -> str:
    if expires is None:
        return "never"
    return "expired" if expires <= now else moment(expires)
