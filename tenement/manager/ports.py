"""Which TCP port the next start gets. Pure."""

from tenement.unit_properties import FIRST_PORT, PORT_COUNT


class Ports:
    """A pool from which ports are taken round and round.

    A port that was given back is the last to be given out again, so that a connection meant for the tenant
    that had it does not meet another tenant.
    """

    def __init__(self, first: int = FIRST_PORT, count: int = PORT_COUNT) -> None:
        self._first = first
        self._count = count
        self._next = 0
        self._taken: set[int] = set()

    def take(self) -> int | None:
        """A free port, or None if there is none."""
        for _ in range(self._count):
            port = self._first + self._next
            self._next = (self._next + 1) % self._count
            if port not in self._taken:
                self._taken.add(port)
                return port
        return None

    def adopt(self, port: int) -> None:
        """Mark a port as taken that a running unit was found to have; the next ones come after it."""
        self._taken.add(port)
        self._next = max(self._next, (port - self._first + 1) % self._count)

    def give_back(self, port: int) -> None:
        """Make a port free."""
        self._taken.discard(port)
