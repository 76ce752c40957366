"""What `ten tls` does."""

import asyncio
import json
import stat
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tenement.cli.entry import complain
from tenement.cli.tenants import run
from tenement.cli.text import Screen, moment, out, out_json, printable, span, table
from tenement.client import Client
from tenement.errors import InvalidConfig, Problem

type Entry = dict[str, Any]

_POLL_S = 0.3
_COLOURS = {"valid": "green", "failed": "red", "expired": "red", "limited": "yellow", "ordering": "yellow"}
_FAILED_STATUS = 5


def enable(
    *,
    email: str,
    staging: bool,
    server: str | None,
    dns: str | None,
    credentials: Path | None,
    propagation_s: int | None,
    hsts_days: int,
    weekly_limit: int,
    wait: bool,
) -> int:
    """Serves HTTPS, and waits until each name has its certificate or has failed once."""
    from tenement.tls.settings import LETS_ENCRYPT, STAGING, TlsSettings

    if staging and server:
        raise InvalidConfig([Problem("--staging and --acme-server name two authorities: say one")])
    settings = TlsSettings(
        email=email,
        server=server or (STAGING if staging else LETS_ENCRYPT),
        dns=dns,
        dns_credentials=str(credentials.absolute()) if credentials else None,
        dns_propagation_s=propagation_s,
        hsts_s=hsts_days * 86400,
        weekly_limit=weekly_limit,
    )
    problems = settings.problems()
    if credentials is not None:
        problems += credential_problems(credentials.absolute())
    if problems:
        raise InvalidConfig(problems)
    document = {key: getattr(settings, key) for key in settings.__struct_fields__}

    async def work(client: Client) -> int:
        await client.enable_tls(json.dumps(document))
        return await _follow(client) if wait else 0

    return run(work)


async def _follow(client: Client) -> int:
    """Tells of each name as it gets its certificate, until nothing is on its way."""
    told: set[str] = set()
    failed = False
    while True:
        entries = (await client.tls_status())["names"]
        for entry in entries:
            name, state = str(entry["name"]), entry["state"]
            if name in told or state not in ("valid", "failed", "limited"):
                continue
            told.add(name)
            if state == "valid":
                out(
                    f"{name}  valid until {moment(entry['expires_at'])}, by {printable(str(entry['issuer']))}"
                )
            elif state == "failed":
                failed = True
                complain(f"{name}: {entry['error']}")
            else:
                out(f"{name}  waits until {moment(entry['retry_at'])}: {_reason(entry)}")
        sys.stdout.flush()
        if all(str(entry["name"]) in told for entry in entries):
            return _FAILED_STATUS if failed else 0
        await asyncio.sleep(_POLL_S)


def status(*, as_json: bool) -> int:
    """Shows every name."""
    found = run(lambda client: client.tls_status())
    if as_json:
        out_json(found)
        return 0
    if not found.get("enabled"):
        out("TLS is not enabled. Run 'ten tls enable --email ADDRESS'.")
        return 0
    out(f"Authority: {found['server']}")
    out(f"Challenge: {'dns-01 by ' + found['dns'] + ', http-01' if found.get('dns') else 'http-01'}")
    out("")
    for line in listing(found["names"], Screen.of(sys.stdout), time.time()):
        out(line)
    for fault in found.get("faults", {}).values():
        complain(fault)
    return 0


def listing(entries: Iterable[Entry], screen: Screen, now: float) -> list[str]:
    """The lines of `ten tls status`."""
    rows = [_row(entry, now) for entry in entries]
    lines = table(("NAME", "STATE", "EXPIRES", "LEFT", "RENEWAL", "ISSUER", "ERROR"), rows, screen)
    painted = [
        line.replace(f" {row[1]} ", f" {screen.paint(row[1], _COLOURS.get(row[1]))} ", 1)
        for line, row in zip(lines[1:], rows, strict=True)
    ]
    return [lines[0], *painted]


def _row(entry: Entry, now: float) -> tuple[str, ...]:
    expires, renewal = entry.get("expires_at"), entry.get("renewal_at")
    return (
        str(entry["name"]),
        str(entry["state"]),
        _day(expires),
        span(max(0.0, expires - now)) if expires else "-",
        _day(renewal),
        printable(str(entry.get("issuer") or "-")),
        _reason(entry),
    )


def _reason(entry: Entry) -> str:
    retry_at = entry.get("retry_at")
    reason = printable(str(entry.get("error") or ""))
    if retry_at is None:
        return reason or "-"
    reason = reason or "the authority's weekly limit is near"
    return f"{reason}; next try {moment(retry_at)}"


def _day(at: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) if at else "-"


def disable() -> int:
    """Serves plain HTTP again."""
    run(lambda client: client.disable_tls())
    return 0


def retry(name: str) -> int:
    """Orders what failed again."""
    run(lambda client: client.retry_certificate(name))
    return 0


def replace(name: str) -> int:
    """Gets a new certificate and revokes the old one."""
    run(lambda client: client.replace_certificate(name))
    out(f"{name}: replaced, and the old certificate is revoked")
    return 0


def add(name: str, chain: Path, key: Path) -> int:
    """Uses a certificate of the operator's own."""
    texts = [_read(chain), _read(key)]
    run(lambda client: client.add_certificate(name, *texts))
    return 0


def remove(name: str) -> int:
    """Uses it no more."""
    run(lambda client: client.remove_certificate(name))
    return 0


def credential_problems(file: Path) -> list[Problem]:
    """What is wrong with a file of credentials for a name server."""
    try:
        found = file.stat()
    except OSError as error:
        return [Problem(f"{file}: {error.strerror}", hint="It is read by root, at each renewal.")]
    if not stat.S_ISREG(found.st_mode):
        return [Problem(f"{file}: is not a file")]
    if found.st_uid != 0:
        return [Problem(f"{file}: belongs to another user than root", hint=f"Run: chown root: {file}")]
    if found.st_mode & 0o077:
        return [
            Problem(
                f"{file}: is open to others (mode {stat.S_IMODE(found.st_mode):04o}); "
                "who reads it rules your domain",
                hint=f"Run: chmod 0600 {file}",
            )
        ]
    return []


def _read(file: Path) -> str:
    try:
        return file.read_text("ascii", "replace")
    except OSError as error:
        raise InvalidConfig([Problem(f"{file}: {error.strerror}")]) from error
