"""The page /metrics, from numbers that are made up; and the Grafana dashboard that reads it."""

import json
import re
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tenement.api.exposition import Numbers, render
from tenement.counters import CELLS, Counts
from tenement.manager.measurements import WAKE_BOUNDS_S
from tenement.usage import Use

GRAFANA = Path(__file__).parents[2] / "examples" / "grafana-dashboard.json"
SERVICE: dict[str, Any] = {
    "states": {"running": 2, "asleep": 3},
    "leases": 1,
    "wakes": {kind: [[1] * (len(WAKE_BOUNDS_S) + 1), 2.5] for kind in ("asleep", "armed", "frozen")},
    "sleeps": {"frozen": 4, "asleep": 5},
    "restarts": 1,
    "failures": 2,
}
RESOURCES = {
    "CPUUsageNSec": 2_000_000_000,
    "MemoryCurrent": 4096,
    "TasksCurrent": 3,
    "IOReadBytes": 1,
    "IOWriteBytes": 2,
    "IPIngressBytes": 5,
    "IPEgressBytes": 6,
}


def counts(number: int) -> Counts:
    found = Counts()
    found.add([number] * CELLS)
    return found


def numbers(**more: Any) -> Numbers:
    measured = {
        "bounds": WAKE_BOUNDS_S,
        "services": {"notes": SERVICE},
        "tenants": [],
        "disk_bytes": {"notes": 7},
        "certificates": {"example.com": 1.8e9},
    }
    requests = {
        "notes:alice": counts(1),
        "notes:bob": counts(2),
        "notes": counts(3),
        "-": counts(4),
        "/": counts(5),
    }
    return Numbers(measured | more, requests, {"notes": RESOURCES}, {"notes:alice": Use(1_500_000, 2048, 1)})


def samples(page: bytes) -> dict[str, float]:
    families = text_string_to_metric_families(page.decode())
    return {
        f"{each.name}{sorted(each.labels.items())}": each.value
        for family in families
        for each in family.samples
    }


def test_what_a_removed_tenant_left_behind_stays_in_its_services_sum() -> None:
    found = samples(render(numbers()))
    assert found["tenement_requests_total[('code', '2xx'), ('service', 'notes')]"] == 6
    assert found["tenement_unrouted_requests_total[('code', '4xx')]"] == 4
    assert found["tenement_api_requests_total[('code', '4xx')]"] == 5


def test_buckets_are_cumulative_and_end_with_the_count() -> None:
    found = samples(render(numbers()))
    name = "tenement_wake_duration_seconds"
    labels = "[('began', 'armed'), {}('service', 'notes')]"
    assert found[f"{name}_bucket{labels.format("('le', '0.001'), ")}"] == 1
    assert found[f"{name}_bucket{labels.format("('le', '+Inf'), ")}"] == len(WAKE_BOUNDS_S) + 1
    assert found[f"{name}_count{labels.format('')}"] == len(WAKE_BOUNDS_S) + 1


def test_tenants_are_named_only_if_the_configuration_asks_for_it() -> None:
    assert b"alice" not in render(numbers())
    named = render(numbers(tenants=[["notes:alice", "running", 1]]))
    assert b'tenement_tenant_cpu_seconds_total{tenant="notes:alice"} 1.5' in named
    assert b"bob" not in named


def test_what_the_kernel_does_not_count_is_left_out() -> None:
    bare = numbers()
    bare.resources = {"notes": {"MemoryCurrent": 2**64 - 1, "CPUUsageNSec": None}}
    page = render(bare)
    assert b"tenement_memory_bytes{" not in page
    assert b"tenement_cpu_seconds_total{" not in page


def test_the_grafana_dashboard_asks_only_for_what_there_is() -> None:
    there = {name.partition("[")[0] for name in samples(render(numbers()))}
    labels = set(re.findall(rb"([a-z_]+)=\"", render(numbers())))
    asked = set()
    for panel in json.loads(GRAFANA.read_text())["panels"]:
        for target in panel["targets"]:
            asked |= set(re.findall(r"tenement_[a-z_]+", target["expr"]))
            used = re.findall(r"([a-z]+)=~?\"", target["expr"])
            used += [
                w for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for w in re.findall(r"[a-z]+", by)
            ]
            assert {word.encode() for word in used} <= labels, target["expr"]
    assert asked and asked <= there
