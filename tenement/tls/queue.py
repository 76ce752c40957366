"""What to order next from the certificate authority, and when. Pure: time is an argument.

Authorities limit how many certificates they give out, Let's Encrypt to 50 a week for all names below one
registered domain. A few names get a certificate each, which keeps one tenant's fate out of another's; as the
week's allowance shrinks, more names share one, up to a hundred. Half of the allowance may be used at once,
the rest is spread over the week, so that there is always something left for a new tenant. Names that failed
wait longer each time and are ordered alone.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from tenement.tls.names import Want

NAMES_MAX: Final = 100
"""Names in one certificate (Let's Encrypt's limit)."""

WEEK_S: Final = 7 * 86400.0
_FIRST_PAUSE_S: Final = 300.0
_LAST_PAUSE_S: Final = 12 * 3600.0
_GROWTH: Final = 3.0


class Failure(NamedTuple):
    """A name that could not be got: how often in a row, why, and when (since 1970) it is tried again."""

    times: int
    retry_at: float
    reason: str


class Order(NamedTuple):
    """Names for one certificate."""

    names: tuple[str, ...]
    dns: bool
    group: str


class Wait(NamedTuple):
    """Nothing can be ordered before `until`."""

    until: float


def pause_s(failures: int) -> float:
    """Seconds from a name's last failure to its next try; a tenth is chance, so that not all come at once."""
    return min(_LAST_PAUSE_S, _FIRST_PAUSE_S * _GROWTH ** (failures - 1)) * random.uniform(0.9, 1.0)


def next_order(
    missing: Sequence[Want],
    failures: Mapping[str, Failure],
    issued: Mapping[str, Sequence[float]],
    weekly_limit: int,
    now: float,
) -> Order | Wait | None:
    """The next order for names that are missing; None if there is nothing to do.

    `issued` has the times of the certificates of each group, in any order.
    """
    times = []
    for want in missing:
        at = earliest(want, failures, issued, weekly_limit, now)
        if at > now:
            times.append(at)
            continue
        return _order(want, missing, failures, issued, weekly_limit, now)
    return Wait(min(times)) if times else None


def earliest(
    want: Want,
    failures: Mapping[str, Failure],
    issued: Mapping[str, Sequence[float]],
    weekly_limit: int,
    now: float,
) -> float:
    """When a name may be ordered, in seconds since 1970; not after `now` means at once."""
    failure = failures.get(want.name)
    return max(
        failure.retry_at if failure else 0.0, allowed_at(issued.get(want.group, ()), weekly_limit, now)
    )


def allowed_at(issued: Iterable[float], weekly_limit: int, now: float) -> float:
    """When the next certificate of a group may be ordered, by those of the last week."""
    recent = sorted(at for at in issued if now - WEEK_S < at <= now)
    at_once = max(1, weekly_limit // 2)
    if len(recent) < at_once:
        return now
    spread_s = WEEK_S / max(1, weekly_limit - at_once)
    at = recent[-1] + spread_s
    if len(recent) >= weekly_limit:
        at = max(at, recent[-weekly_limit] + WEEK_S)
    return at


def share(waiting: int, recent: int, weekly_limit: int) -> int:
    """How many names go into one certificate, so that half of what is left at once serves all that wait."""
    left = max(1, (weekly_limit // 2 - recent) // 2)
    return min(NAMES_MAX, max(1, -(-waiting // left)))


def _order(
    first: Want,
    missing: Sequence[Want],
    failures: Mapping[str, Failure],
    issued: Mapping[str, Sequence[float]],
    weekly_limit: int,
    now: float,
) -> Order:
    if _failed(first, failures) and not first.together:
        return Order((first.name,), first.dns, first.group)
    same = [
        want.name
        for want in missing
        if want.bundle == first.bundle and (first.together or not _failed(want, failures))
    ]
    if not first.together:
        recent = sum(now - WEEK_S < at <= now for at in issued.get(first.group, ()))
        same = same[: share(len(same), recent, weekly_limit)]
    return Order(tuple(same), first.dns, first.group)


def _failed(want: Want, failures: Mapping[str, Failure]) -> bool:
    """Whether the name itself failed; being told to come back later is no failure."""
    failure = failures.get(want.name)
    return failure is not None and failure.times > 0
