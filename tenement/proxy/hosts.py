"""The Host field: folded to the one form that routes are looked up by, or refused.

RFC 9110, 7.2 and RFC 3986, 3.2.2. A folded host is a DNS name in lower case without port and final dot, with
labels in their ASCII form (`xn--`), or an address literal. An address is well-formed: it is merely no
tenant's name.
"""

import re
from typing import Final

NAME_MAX: Final = 253
"""Longest DNS name in characters, without the final dot (RFC 1035, 2.3.4)."""

# Underscores are in no host name, but in use (service discovery, old Windows); no tenant's name has one.
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"((?:{_LABEL}\.)*{_LABEL})\.?(?::[0-9]{{0,5}})?")
_ADDRESS: Final = re.compile(r"(\[[0-9a-f:.]{2,45}\])(?::[0-9]{0,5})?")


class BadHost(ValueError):
    """A Host that no rule can read; the message says why."""


def fold(field: bytes) -> str:
    """The host in the form routes are kept in. Raises BadHost.

    `Alice.Notes.Example.COM.:8080` gives `alice.notes.example.com`; a name in UTF-8 gives its ASCII form.
    """
    try:
        text = field.strip(b" \t").decode().lower()
    except UnicodeDecodeError:
        raise BadHost("Host is not UTF-8") from None
    if not text:
        raise BadHost("Host is empty")
    if not text.isascii():
        text = _to_ascii(text)
    match = _HOST.fullmatch(text) or _ADDRESS.fullmatch(text)
    if match is None:
        raise BadHost("Host is not a name or an address")
    name = match[1]
    if len(name) > NAME_MAX:
        raise BadHost("Host is too long")
    return name


def _to_ascii(text: str) -> str:
    """The ASCII form of a name with other letters, a port left as it is."""
    name, colon, port = text.partition(":")
    try:
        return name.encode("idna").decode().lower() + colon + port
    except UnicodeError:
        raise BadHost("Host is not a valid international name") from None
