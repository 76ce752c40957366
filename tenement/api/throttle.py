"""How often somebody may ask: token buckets, of addresses and of tokens, as many as fit a limit."""

from collections import OrderedDict
from collections.abc import Callable
from time import monotonic
from typing import Final

_KEYS_MAX: Final = 10_000


class Throttle:
    """Lets each key through `rate_rps` times a second on average, and `burst` times at once."""

    def __init__(self, rate_rps: float, burst: float, clock: Callable[[], float] = monotonic) -> None:
        self._rate_rps = rate_rps
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, key: str) -> float:
        """Seconds until the key may come again; 0 if it may now. Takes nothing."""
        level = self._level(key)
        return 0.0 if level >= 1.0 else (1.0 - level) / self._rate_rps

    def take(self, key: str) -> None:
        """Count one time. Of very many keys the one unseen for longest is forgotten."""
        level = self._level(key)
        self._buckets[key] = (max(0.0, level - 1.0), self._clock())
        self._buckets.move_to_end(key)
        if len(self._buckets) > _KEYS_MAX:
            self._buckets.popitem(last=False)

    def _level(self, key: str) -> float:
        level, at = self._buckets.get(key, (self._burst, 0.0))
        return min(self._burst, level + (self._clock() - at) * self._rate_rps)
