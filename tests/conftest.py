"""What holds for every test: system tests are marked, no test leaves a task of asyncio behind, and modules
that are shipped compiled are tested compiled where the package was built.
"""

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tenement
import tenement.proxy

SYSTEM_TESTS = Path(__file__).parent / "system"
NATIVE = Path("/run/native/usr/lib/python3/dist-packages")

if NATIVE.is_dir():
    sys.path.append(str(NATIVE))
    for package in (tenement, tenement.proxy):
        package.__path__.insert(0, str(NATIVE / package.__name__.replace(".", "/")))


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
