"""The cookie that keeps a visitor of `service.domain` with one of the service's tenants.

It names the tenant's id and is signed, so that nobody can choose a tenant by writing one: `id.mac`, the mac
being the first half of HMAC-SHA256 over "service:id", in hexadecimal.
"""

import hashlib
import hmac
from typing import Final

_MAC_BYTES: Final = 16
_PREFIX: Final = "tenement-"


class Sticky:
    """Signs and reads cookies. Without a key it does neither: all workers must have the same one."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def __bool__(self) -> bool:
        return bool(self._key)

    def cookie(self, service: str, id_: str, *, secure: bool) -> bytes:
        """The value of Set-Cookie: for the session, and out of reach of scripts."""
        attributes = "Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if secure else "")
        return f"{_PREFIX}{service}={id_}.{self._mac(service, id_)}; {attributes}".encode()

    def read(self, cookies: bytes, service: str) -> str | None:
        """The id in a Cookie field; None if there is none, or it was not signed here."""
        wanted = f"{_PREFIX}{service}"
        for pair in cookies.decode("latin-1").split(";"):
            name, _, value = pair.strip().partition("=")
            id_, dot, mac = value.rpartition(".")
            if name == wanted and dot and self._is_right(service, id_, mac):
                return id_
        return None

    def _is_right(self, service: str, id_: str, mac: str) -> bool:
        return hmac.compare_digest(mac.encode("latin-1"), self._mac(service, id_).encode())

    def _mac(self, service: str, id_: str) -> str:
        text = f"{service}:{id_}".encode("latin-1", "replace")
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()[: 2 * _MAC_BYTES]
