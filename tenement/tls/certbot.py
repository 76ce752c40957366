"""The command lines of certbot, and what its output means. Pure. See certbot(1)."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from tenement.tls.queue import Order
from tenement.tls.settings import TlsSettings

PROGRAM: Final = "/usr/bin/certbot"
DEPLOY_HOOK: Final = "/usr/lib/tenement/deploy-certificate"
BUSY: Final = "Another instance of Certbot is already running"

_PROBLEM: Final = re.compile(
    r"^\s*(?:Domain|Identifier):\s*(\S+)\n\s*Type:\s*(\S+)\n\s*Detail:\s*(.+(?:\n(?=\S).+)*)", re.M
)
_UNEXPECTED: Final = re.compile(r"An unexpected error occurred:\n(.+)")
_LIMITED: Final = re.compile(
    r"rateLimited|too many (?:certificates|failed|new orders|new registrations|requests)", re.I
)
_RETRY_AFTER: Final = re.compile(r"retry after (\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)", re.I)
_NOISE: Final = ("Saving debug log", "Ask for help", "See the logfile", "Hint:", "- - -")
_REASON_MAX: Final = 300


def issue(settings: TlsSettings, lineage: str, order: Order, *, force: bool, new_key: bool) -> list[str]:
    """Gets a certificate. `force` replaces one that is still good; `new_key` makes it a new private key."""
    command = [
        *(PROGRAM, "certonly", "--non-interactive", "--agree-tos", "--no-eff-email"),
        *("--email", settings.email, "--server", settings.server),
        *("--cert-name", lineage, "--renew-with-new-domains", "--deploy-hook", DEPLOY_HOOK),
        "--force-renewal" if force else "--keep-until-expiring",
        *authenticator(settings, dns=order.dns),
    ]
    if new_key:
        command.append("--new-key")
    if len(order.names) > 1 and not order.dns:
        # The names of other tenants must not fail with one that does not lead here (any more).
        command.append("--allow-subset-of-names")
    for name in order.names:
        command += ["-d", name]
    return command


def authenticator(settings: TlsSettings, *, dns: bool) -> list[str]:
    """The options of the plugin that proves that a name is ours."""
    if not dns or settings.dns is None:
        return ["--authenticator", "tenement"]
    plugin = f"dns-{settings.dns}"
    options = ["--authenticator", plugin]
    if settings.dns_credentials is not None:
        options += [f"--{plugin}-credentials", settings.dns_credentials]
    if settings.dns_propagation_s is not None:
        options += [f"--{plugin}-propagation-seconds", str(settings.dns_propagation_s)]
    return options


def revoke(settings: TlsSettings, certificate: str) -> list[str]:
    """Revokes the certificate in a file of certbot's archive, and keeps what came after it."""
    return [
        *(PROGRAM, "revoke", "--non-interactive", "--server", settings.server),
        *("--cert-path", certificate, "--reason", "keycompromise", "--no-delete-after-revoke"),
    ]


def delete(lineage: str) -> list[str]:
    """Makes certbot forget a certificate, so that it is renewed no more."""
    return [PROGRAM, "delete", "--non-interactive", "--cert-name", lineage]


def reasons(output: str, names: Iterable[str]) -> dict[str, str]:
    """Why each name was not got, from what certbot printed; names it says nothing of have its last word."""
    told = {match[1].lower(): f"{_one_line(match[3])} ({match[2]})" for match in _PROBLEM.finditer(output)}
    general = _general(output)
    return {name: told.get(name.removeprefix("*."), general) for name in names}


def rate_limited_until(output: str, now: float) -> float | None:
    """When the authority will listen again, if it said that it had enough; an hour from now if it said no
    time.
    """
    if not _LIMITED.search(output):
        return None
    match = _RETRY_AFTER.search(output)
    if match is None:
        return now + 3600.0
    return datetime.fromisoformat(f"{match[1]} {match[2]}").replace(tzinfo=UTC).timestamp()


def _general(output: str) -> str:
    if match := _UNEXPECTED.search(output):
        return _one_line(match[1])
    lines = [line.strip() for line in output.splitlines()]
    said = [line for line in lines if line and not line.startswith(_NOISE)]
    return _one_line(_last(said)) if said else "certbot said nothing"


def _last(lines: Sequence[str]) -> str:
    return lines[-1]


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _REASON_MAX else line[: _REASON_MAX - 3] + "..."
