"""The file in which a worker counts requests."""

from pathlib import Path

from tenement.counters import CELLS, Counters, by_service, read


def counters(path: Path, *tenants: str) -> Counters:
    return Counters(path, lambda name: name in tenants)


def test_counts_of_all_workers_are_added_up(tmp_path: Path) -> None:
    for worker in ("worker-1", "worker-2"):
        each = counters(tmp_path / worker, "notes:alice")
        each.count("notes:alice", 200, 0.002, 100)
        each.count("notes:alice", 503, 0.2, 10)
        each.close()
    found = read(tmp_path)["notes:alice"]
    assert found.by_class == [0, 2, 0, 0, 2]
    assert found.requests == sum(found.buckets) == 4
    assert found.sent_bytes == 220
    assert abs(found.sum_s - 0.404) < 1e-9


def test_a_worker_goes_on_from_the_counts_of_the_one_before(tmp_path: Path) -> None:
    for _ in range(3):
        each = counters(tmp_path / "worker-1", "notes:alice")
        each.count("notes:alice", 200, 0.001, 1)
        each.close()
    assert read(tmp_path)["notes:alice"].requests == 3


def test_a_removed_tenant_leaves_its_counts_to_its_service(tmp_path: Path) -> None:
    living = {"notes:alice"}
    each = Counters(tmp_path / "worker-1", living.__contains__)
    each.count("notes:alice", 200, 0.001, 1)
    before = by_service(read(tmp_path))["notes"].cells
    living.clear()
    each.prune(["notes:alice"])
    assert "notes:alice" not in read(tmp_path)
    assert by_service(read(tmp_path))["notes"].cells == before
    # A request that was in flight when the tenant went does not bring it back.
    each.count("notes:alice", 200, 0.001, 1)
    assert "notes:alice" not in read(tmp_path)
    assert by_service(read(tmp_path))["notes"].requests == 2


def test_a_tenant_made_again_starts_at_zero(tmp_path: Path) -> None:
    living = {"notes:alice"}
    each = Counters(tmp_path / "worker-1", living.__contains__)
    for _ in range(5):
        each.count("notes:alice", 200, 0.001, 1)
    each.prune(["notes:alice"])
    each.count("notes:alice", 404, 0.001, 1)
    assert read(tmp_path)["notes:alice"].by_class == [0, 0, 0, 1, 0]


def test_requests_for_unknown_hosts_share_one_record(tmp_path: Path) -> None:
    each = counters(tmp_path / "worker-1")
    for _ in range(100):
        each.count("", 404, 0.0, 1)
    assert {name: counts.requests for name, counts in read(tmp_path).items()} == {"-": 100}


def test_the_file_grows_and_keeps_what_was_counted(tmp_path: Path) -> None:
    each = Counters(tmp_path / "worker-1", lambda _: True)
    for number in range(1000):
        each.count(f"notes:t{number}", 200, 0.001, number)
    found = read(tmp_path)
    assert len(found) == 1000
    assert all(found[f"notes:t{number}"].sent_bytes == number for number in range(1000))
    each.close()


def test_an_upgraded_connection_counts_but_has_no_duration(tmp_path: Path) -> None:
    each = counters(tmp_path / "worker-1", "notes:alice")
    each.count("notes:alice", 101, 3600.0, 1)
    found = read(tmp_path)["notes:alice"]
    assert found.by_class[0] == 1
    assert sum(found.buckets) == 0


def test_a_file_of_another_format_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "worker-1"
    path.write_bytes(b"something else" * 100)
    each = counters(path, "notes:alice")
    each.count("notes:alice", 200, 0.001, 1)
    assert read(tmp_path)["notes:alice"].requests == 1


def test_half_a_move_left_by_a_killed_worker_does_not_hold_up_readers(tmp_path: Path) -> None:
    path = tmp_path / "worker-1"
    counters(path).close()
    with path.open("r+b") as file:
        file.seek(8)
        file.write((7).to_bytes(8, "little"))
    counters(path, "notes:alice").count("notes:alice", 200, 0.0, 0)
    assert len(read(tmp_path)["notes:alice"].cells) == CELLS


def test_without_a_file_counting_goes_on_in_memory(tmp_path: Path) -> None:
    each = counters(tmp_path / "no" / "such" / "directory", "notes:alice")
    each.count("notes:alice", 200, 0.001, 1)
    assert read(tmp_path) == {}
