"""The page /metrics: numbers of the manager, the proxy's workers and systemd, in Prometheus's format."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from tenement import __version__, counters
from tenement.api.manager import Manager
from tenement.lifecycle import State
from tenement.names import TenantName, service_slice
from tenement.usage import Use, use_of

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_CODES: Final = ("1xx", "2xx", "3xx", "4xx", "5xx")
_NOT_COUNTED: Final = 2**64 - 1
_RESOURCES: Final = {
    "CPUUsageNSec": ("tenement_cpu_seconds", "CPU time of a service's tenants.", 1e-9, True),
    "MemoryCurrent": ("tenement_memory_bytes", "Memory of a service's tenants.", 1.0, False),
    "TasksCurrent": ("tenement_tasks", "Processes and threads of a service's tenants.", 1.0, False),
    "IOReadBytes": ("tenement_io_read_bytes", "Bytes read from disks.", 1.0, True),
    "IOWriteBytes": ("tenement_io_write_bytes", "Bytes written to disks.", 1.0, True),
    "IPIngressBytes": ("tenement_network_receive_bytes", "Bytes received over IP.", 1.0, True),
    "IPEgressBytes": ("tenement_network_transmit_bytes", "Bytes sent over IP.", 1.0, True),
}


@dataclass(slots=True)
class Numbers:
    """Everything that a page is made of. `services` and `tenants` are the manager's (see Measurements)."""

    measured: dict[str, Any]
    requests: dict[str, counters.Counts]
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    uses: dict[str, Use] = field(default_factory=dict)


async def collect(manager: Manager) -> Numbers:
    """Ask for all numbers. Raises Unreachable."""
    measured = await manager.measure()
    requests = await asyncio.to_thread(counters.read)
    numbers = Numbers(measured, requests)
    for service in measured["services"]:
        numbers.resources[service] = await manager.slice_properties(service_slice(service))
    running = [name for name, state, _ in measured["tenants"] if state == State.RUNNING]
    numbers.uses = await asyncio.to_thread(lambda: {name: use_of(TenantName.parse(name)) for name in running})
    return numbers


def render(numbers: Numbers) -> bytes:
    """The page."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(numbers))
    return bytes(generate_latest(registry))


class _Page(Collector):
    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def collect(self) -> Iterable[Any]:
        numbers = self._numbers
        build = GaugeMetricFamily(
            "tenement_build_info", "The version that runs; always 1.", labels=["version"]
        )
        build.add_metric([__version__], 1)
        yield build
        yield from _lives(numbers.measured)
        yield from _requests(numbers)
        yield from _resources(numbers)
        yield from _certificates(numbers.measured.get("certificates", {}))
        if numbers.measured["tenants"]:
            yield from _tenants(numbers)


def _lives(measured: dict[str, Any]) -> Iterator[Any]:
    """States, leases, wakes, sleeps, restarts and failures of each service."""
    states = GaugeMetricFamily("tenement_tenants", "Tenants by state.", labels=["service", "state"])
    leases = GaugeMetricFamily("tenement_leases", "Leases that workers hold.", labels=["service"])
    wakes = HistogramMetricFamily(
        "tenement_wake_duration_seconds",
        "How long wakes took, by what they began from.",
        labels=["service", "began"],
    )
    sleeps = CounterMetricFamily(
        "tenement_sleeps", "Times that tenants were frozen or put to sleep.", labels=["service", "depth"]
    )
    restarts = CounterMetricFamily("tenement_restarts", "Restarts after a failure.", labels=["service"])
    failures = CounterMetricFamily("tenement_failures", "Ends that were not wanted.", labels=["service"])
    for service, counts in measured["services"].items():
        for state in State:
            if state is not State.GONE:
                states.add_metric([service, str(state)], counts["states"].get(str(state), 0))
        leases.add_metric([service], counts["leases"])
        for kind, (buckets, sum_s) in counts["wakes"].items():
            wakes.add_metric([service, kind], _buckets(measured["bounds"], buckets), sum_s)
        for depth, count in counts["sleeps"].items():
            sleeps.add_metric([service, depth], count)
        restarts.add_metric([service], counts["restarts"])
        failures.add_metric([service], counts["failures"])
    yield from (states, leases, wakes, sleeps, restarts, failures)


def _requests(numbers: Numbers) -> Iterator[Any]:
    """Requests of each service, of the API, and of nobody."""
    sums = counters.by_service(numbers.requests)
    empty = counters.Counts()
    yield from _request_families(
        "tenement", "service", {name: sums.get(name, empty) for name in numbers.measured["services"]}
    )
    for record, name, what in (
        (
            counters.ROOT,
            "tenement_api_requests",
            "Requests to the API and the dashboard, by class of status.",
        ),
        (counters.UNKNOWN, "tenement_unrouted_requests", "Requests for unknown hosts, by class of status."),
    ):
        family = CounterMetricFamily(name, what, labels=["code"])
        for code, count in zip(_CODES, sums.get(record, empty).by_class, strict=True):
            family.add_metric([code], count)
        yield family


def _request_families(prefix: str, label: str, counts: dict[str, counters.Counts]) -> Iterator[Any]:
    requests = CounterMetricFamily(
        f"{prefix}_requests", f"Requests of a {label}, by class of status.", labels=[label, "code"]
    )
    durations = HistogramMetricFamily(
        f"{prefix}_request_duration_seconds",
        "From the request's head to the end of its answer; upgraded connections excluded.",
        labels=[label],
    )
    sent = CounterMetricFamily(
        f"{prefix}_response_bytes", "Bytes of answers, heads included.", labels=[label]
    )
    for name, each in counts.items():
        for code, count in zip(_CODES, each.by_class, strict=True):
            requests.add_metric([name, code], count)
        durations.add_metric([name], _buckets(counters.BOUNDS_S, each.buckets), each.sum_s)
        sent.add_metric([name], each.sent_bytes)
    yield from (requests, durations, sent)


def _resources(numbers: Numbers) -> Iterator[Any]:
    """What systemd counts for each service's slice."""
    for key, (name, what, factor, is_counter) in _RESOURCES.items():
        kind = CounterMetricFamily if is_counter else GaugeMetricFamily
        family = kind(name, what, labels=["service"])
        for service, properties in numbers.resources.items():
            value = properties.get(key)
            if value is not None and value != _NOT_COUNTED:
                family.add_metric([service], value * factor)
        yield family
    data = GaugeMetricFamily(
        "tenement_data_bytes",
        "Room that tenants' data takes, of those measured since the start.",
        labels=["service"],
    )
    for service, count in numbers.measured.get("disk_bytes", {}).items():
        data.add_metric([service], count)
    yield data


def _certificates(expiries: dict[str, float]) -> Iterator[Any]:
    family = GaugeMetricFamily(
        "tenement_certificate_expiry_timestamp_seconds", "When a certificate expires.", labels=["certificate"]
    )
    for name, expiry in expiries.items():
        family.add_metric([name], expiry)
    yield family


def _tenants(numbers: Numbers) -> Iterator[Any]:
    """The same for each tenant, if the configuration asks for it."""
    named = {name: (state, leases) for name, state, leases in numbers.measured["tenants"]}
    counted = {name: counts for name, counts in numbers.requests.items() if name in named}
    yield from _request_families("tenement_tenant", "tenant", counted)
    awake = GaugeMetricFamily("tenement_tenant_running", "Whether the tenant runs.", labels=["tenant"])
    leases = GaugeMetricFamily("tenement_tenant_leases", "Leases that workers hold.", labels=["tenant"])
    for name, (state, count) in named.items():
        awake.add_metric([name], state == State.RUNNING)
        leases.add_metric([name], count)
    cpu = CounterMetricFamily("tenement_tenant_cpu_seconds", "CPU time of this start.", labels=["tenant"])
    memory = GaugeMetricFamily("tenement_tenant_memory_bytes", "Memory.", labels=["tenant"])
    for name, use in numbers.uses.items():
        if use.cpu_usec is not None:
            cpu.add_metric([name], use.cpu_usec / 1e6)
        if use.memory_bytes is not None:
            memory.add_metric([name], use.memory_bytes)
    yield from (awake, leases, cpu, memory)


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, int]]:
    """Buckets as Prometheus has them: each counts everything up to its bound."""
    found, total = [], 0
    for bound, count in zip([*map(_bound, bounds), "+Inf"], counts, strict=True):
        total += count
        found.append((bound, total))
    return found


def _bound(bound: float) -> str:
    return f"{bound:g}" if bound != int(bound) else f"{bound:.1f}"
