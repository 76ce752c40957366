"""The numbers a worker works with that no service sets for itself."""

from dataclasses import dataclass, replace
from typing import Final, Self

# What a worker has open besides connections: listeners, the bus, its counts, files that it reads.
_OTHER_DESCRIPTORS: Final = 256


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and timeouts of one worker. Times are seconds, sizes are bytes.

    Deadlines are checked every `sweep_interval_s`, so each may come late by that much; while all connections
    are idle, every `idle_sweep_interval_s`.
    """

    head_timeout_s: float = 15.0
    """From the first byte of a request head (or the connection's start) to its last; bytes do not extend
    it.
    """

    idle_timeout_s: float = 75.0
    """A keep-alive connection without a request is closed after this."""

    body_window_s: float = 30.0
    """A request body must make progress within each window of this length ..."""

    body_window_bytes: int = 3000
    """... by this many bytes: 100 a second. Time in which the proxy itself holds the client back is not
    counted.
    """

    stalled_client_s: float = 300.0
    """A client that takes nothing of its answer for this long is cut off."""

    stalled_app_s: float = 300.0
    """An app that takes nothing of a request's body for this long is given up: 504."""

    half_closed_s: float = 1.0
    """A client that shut its sending side is served while its answer keeps flowing, and cut after this much
    silence.
    """

    linger_s: float = 5.0
    """After an answer that did not wait for the request's body, the rest is read and dropped for this
    long.
    """

    linger_bytes: int = 8 << 20
    """As `linger_s`, but in bytes: nobody needs to push a whole upload into a closed door."""

    tunnel_half_closed_s: float = 10.0
    """An upgraded connection with one direction closed ends after this much silence in the other."""

    connect_timeout_s: float = 10.0
    """For a connection to an app; its backlog may be full for a moment."""

    waiting_page_s: float = 1.0
    """A person waits this long for a start, and then sees the waiting page, if the service has it."""

    lease_linger_s: float = 1.0
    """A lease is given back this long after the last request on it."""

    pool_idle_s: float = 30.0
    """An unused connection to an app is closed after this."""

    pool_size: int = 128
    """Unused connections kept for one lease."""

    unsafe_reuse_s: float = 0.5
    """A request that must not be repeated goes out on a pooled connection only if that was used this
    recently.
    """

    max_connections: int = 20_000
    """Client connections of the worker; at the limit the one idle for longest makes room."""

    max_line_bytes: int = 16 << 10
    """The request line: 414 beyond."""

    max_head_bytes: int = 64 << 10
    """Request line and fields of a service that sets no `max_header_bytes`, and of answers of apps: 431, or
    502.
    """

    max_fields: int = 128
    """Fields in a request's head: 431 beyond."""

    max_pipelined_bytes: int = 64 << 10
    """What is read ahead of requests that wait for their turn on one connection."""

    max_waiting_bytes: int = 16 << 10
    """What is read ahead of a body while its request waits for a lease or a connection."""

    write_high_bytes: int = 256 << 10
    """Unsent bytes in one direction above which the sender is no longer read."""

    write_low_bytes: int = 64 << 10
    """Unsent bytes below which it is read again."""

    drain_s: float = 25.0
    """From SIGTERM until requests and upgraded connections still running are cut."""

    drain_idle_s: float = 2.0
    """A worker that ends keeps a connection that was in use this recently, to answer a request already on its
    way with `Connection: close`."""

    sweep_interval_s: float = 0.5
    """Between two looks at all deadlines."""

    idle_sweep_interval_s: float = 5.0
    """As `sweep_interval_s`, while there are only connections that wait for a request."""

    source_address: str = "127.0.77.1"
    """The address that tenants' firewalls let in. Empty: the kernel's choice."""

    def within(self, descriptors: int) -> Self:
        """These, for a process that may have so many file descriptors open.

        Each client may need a second one, to an app. A worker that ran out of them could not even turn
        anybody away.
        """
        affordable = max(1, (descriptors - _OTHER_DESCRIPTORS) // 2)
        return replace(self, max_connections=min(self.max_connections, affordable))
