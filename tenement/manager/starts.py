"""Who may start now: at most so many at a time, the others in order. Pure."""

from collections.abc import Callable
from typing import Final

from tenement.names import TenantName


class StartQueue:
    """A bounded number of turns. More starts at once would make PID 1 and the disk slow for all of them."""

    def __init__(self, limit: int, grant: Callable[[TenantName], None]) -> None:
        self.limit = limit
        self._grant: Final = grant
        self._active: set[TenantName] = set()
        # A dict is a queue here: in order of arrival, and left from the middle without a search.
        self._waiting: dict[TenantName, None] = {}

    def __len__(self) -> int:
        """How many wait for their turn."""
        return len(self._waiting)

    @property
    def quiet(self) -> bool:
        """Whether nobody starts or waits to."""
        return not self._active and not self._waiting

    def enqueue(self, name: TenantName) -> None:
        """Ask for a turn; `grant` is called with the name, at once if there is room."""
        self._waiting[name] = None
        self._advance()

    def leave(self, name: TenantName) -> None:
        """Give the turn back, or stop waiting for it; does nothing for others."""
        self._waiting.pop(name, None)
        self._active.discard(name)
        self._advance()

    def _advance(self) -> None:
        while self._waiting and len(self._active) < self.limit:
            name = next(iter(self._waiting))
            del self._waiting[name]
            self._active.add(name)
            self._grant(name)
