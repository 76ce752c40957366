"""The Date field, for answers that come without one.

An origin server has to send it (RFC 9110, 6.6.1), and who passes an answer on that lacks it has to add it.
"""

from email.utils import formatdate
from functools import lru_cache
from time import time


def field() -> bytes:
    """The field for an answer of this moment, with a line end in front."""
    return _field(int(time()))


@lru_cache(maxsize=1)
def _field(second: int) -> bytes:
    return f"\r\nDate: {formatdate(second, usegmt=True)}".encode()
