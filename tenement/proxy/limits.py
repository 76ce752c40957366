"""Limits of one tenant in one worker: requests at a time, and requests per second."""

from typing import Final

# By then every bucket is full again, as a new one is: it holds a second's worth.
_FORGET_AFTER_S: Final = 2.0


class Gate:
    """Counts a tenant's requests in flight and refills its token bucket; a second's worth of requests may
    burst.
    """

    __slots__ = ("_at", "_tokens", "in_flight")

    def __init__(self, now: float, burst: float) -> None:
        self.in_flight = 0
        self._tokens = burst
        self._at = now

    def take(self, now: float, rate: float) -> float:
        """Take a token, `rate` a second: 0 if there was one, or the seconds until there is."""
        burst = max(rate, 1.0)
        self._tokens = min(burst, self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / rate

    def idle(self, now: float) -> bool:
        """Whether forgetting it changes nothing."""
        return self.in_flight == 0 and now - self._at > _FORGET_AFTER_S


class Gates:
    """The gates of all tenants that have limits."""

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}

    def __len__(self) -> int:
        """How many tenants have one."""
        return len(self._gates)

    def of(self, tenant: str, now: float, rate: float) -> Gate:
        """The tenant's gate, a full one if it is new."""
        gate = self._gates.get(tenant)
        if gate is None:
            gate = self._gates[tenant] = Gate(now, max(rate, 1.0))
        return gate

    def sweep(self, now: float) -> None:
        """Forget gates that nobody used for a while."""
        for tenant in [tenant for tenant, gate in self._gates.items() if gate.idle(now)]:
            del self._gates[tenant]
