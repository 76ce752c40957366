"""What holds for every test: system tests are marked, and no test leaves a task of asyncio behind."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

SYSTEM_TESTS = Path(__file__).parent / "system"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(SYSTEM_TESTS):
            item.add_marker(pytest.mark.system)


@pytest.fixture(autouse=True)
def no_task_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that ends while a task still runs: every task has an owner that awaits it.

    asyncio.run() cancels such tasks silently, so they are counted just before.
    """
    left: list[asyncio.Task[object]] = []
    close = asyncio.Runner.close

    def count_and_close(runner: asyncio.Runner) -> None:
        # RuntimeError: closed before, so there is no loop, and no task.
        with contextlib.suppress(RuntimeError):
            left.extend(asyncio.all_tasks(runner.get_loop()))
        close(runner)

    monkeypatch.setattr(asyncio.Runner, "close", count_and_close)
    yield
    assert not left, f"tasks left behind: {left}"
