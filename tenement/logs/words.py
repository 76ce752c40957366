"""What `--search` looks for: words and quoted phrases, all of which a message must hold. Pure."""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

_PIECES: Final = re.compile(r'"([^"]*)"?|([^\s"]+)')
_ASCII_RUN: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


class NothingToFind(ValueError):
    """The text has no word in it."""


@dataclass(frozen=True)
class Words:
    """Words and phrases that all have to be in a message, in any case, also within longer words."""

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `login "card declined"`: two parts, of which one is a phrase. Raises NothingToFind."""
        parts = [" ".join((phrase or word).split()) for phrase, word in _PIECES.findall(text)]
        if not any(parts):
            raise NothingToFind(f"nothing to search for in {text!r}")
        return cls(tuple(dict.fromkeys(part for part in parts if part)))

    @cached_property
    def _ascii(self) -> tuple[bytes, ...]:
        return tuple(part.lower().encode() for part in self.parts if part.isascii())

    @cached_property
    def _others(self) -> tuple[str, ...]:
        return tuple(part.casefold() for part in self.parts if not part.isascii())

    @cached_property
    def needle(self) -> bytes:
        """Lower-case bytes that are in each matching message in lower case; b"" if none are known."""
        runs = [run.lower() for part in self.parts for run in _ASCII_RUN.findall(part)]
        return max(runs, key=len, default="").encode()

    def match(self, message: bytes) -> bool:
        """Whether every part is in a message."""
        return self.match_lower(message.lower())

    def match_lower(self, message: bytes) -> bool:
        """Whether every part is in a message whose ASCII letters are lower case already."""
        if not all(part in message for part in self._ascii):
            return False
        if not self._others:
            return True
        text = message.decode("utf-8", "replace").casefold()
        return all(part in text for part in self._others)
