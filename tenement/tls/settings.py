"""What `ten tls enable` was told: kept in the registry, because it is switched on and off like a tenant."""

from typing import Final
from urllib.parse import urlsplit

import msgspec

from tenement.errors import InvalidConfig, Problem

LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
STAGING: Final = "https://acme-staging-v02.api.letsencrypt.org/directory"
HSTS_MAX_S: Final = 2 * 365 * 86400


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How certificates are got and served. `dns` is the certbot plugin for dns-01, None for http-01 alone."""

    email: str
    server: str = LETS_ENCRYPT
    dns: str | None = None
    dns_credentials: str | None = None
    dns_propagation_s: int | None = None
    hsts_s: int = 0
    weekly_limit: int = 50
    """New certificates that the authority gives out in a week for one registered domain."""

    @classmethod
    def decode(cls, text: str) -> "TlsSettings":
        """Reads them from JSON. Raises InvalidConfig with every problem."""
        try:
            settings = msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError as error:
            raise InvalidConfig([Problem(f"TLS settings cannot be read: {error}")]) from error
        if problems := list(settings.problems()):
            raise InvalidConfig(problems)
        return settings

    def problems(self) -> list[Problem]:
        """What is wrong with them."""
        found = []
        local, at, domain = self.email.rpartition("@")
        if (
            not (local and at and domain)
            or any(c.isspace() for c in self.email)
            or self.email.startswith("-")
        ):
            found.append(Problem(f"{self.email!r} is no mail address", hint="The authority wants one."))
        url = urlsplit(self.server)
        if url.scheme != "https" or not url.hostname:
            found.append(
                Problem(
                    f"{self.server!r} is no ACME server", hint="Its directory's URL begins with https://."
                )
            )
        if self.dns is not None and not (self.dns.isascii() and self.dns.isalnum()):
            found.append(
                Problem(f"{self.dns!r} is no DNS plugin of certbot", hint="For example: cloudflare, rfc2136.")
            )
        if self.dns is None and (self.dns_credentials or self.dns_propagation_s is not None):
            found.append(
                Problem("credentials and propagation time are for a DNS plugin", hint="Say --dns too.")
            )
        if self.dns_credentials is not None and not self.dns_credentials.startswith("/"):
            found.append(Problem(f"{self.dns_credentials!r} must be an absolute path"))
        if not 0 <= self.hsts_s <= HSTS_MAX_S:
            found.append(Problem(f"HSTS may last from 0 to {HSTS_MAX_S} seconds, not {self.hsts_s}"))
        if self.weekly_limit < 1:
            found.append(Problem(f"the weekly limit must be at least 1, not {self.weekly_limit}"))
        return found
