"""Autobahn's WebSocket cases, as kosoku runs them, through the proxy and without it.

The app's own server (aiohttp) does not pass every case. What counts is that the proxy is not seen: no case
may end worse through it than without. Left out are the cases about compression: to a proxy
their frames are like any others.
"""

import collections
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Box

APP = "tests/system/apps/conformance.py"
KOSOKU = "/opt/conformance/bin/kosoku"
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED"}
PORT = 20999

type Verdicts = dict[str, tuple[str, str]]


@contextlib.contextmanager
def app_without_proxy(box: Box) -> Iterator[str]:
    """The same app, out of any sandbox, on the box's network."""
    environment = {**os.environ, "HOST": "127.0.0.1", "PORT": str(PORT)}
    with subprocess.Popen([sys.executable, APP], env=environment) as process:
        try:
            ready = ["curl", "-s", "-o", "/dev/null", "-m", "2", f"http://127.0.0.1:{PORT}/"]
            box.wait_for(lambda: subprocess.run(ready, check=False).returncode == 0, 20)
            yield f"127.0.0.1:{PORT}"
        finally:
            process.kill()


def verdicts(address: str, reports: Path, *cases: str) -> Verdicts:
    """The outcome of each case, and of its closing handshake."""
    options = [f"-i{case}" for case in cases] or ["-x12.*", "-x13.*"]
    command = [KOSOKU, "-p", "4", "-o", str(reports), *options, address]
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, timeout=60)
    (report,) = json.loads((reports / "index.json").read_text()).values()
    return {case: (each["behavior"], each["behaviorClose"]) for case, each in report.items()}


def test_no_case_of_autobahn_ends_worse_than_without_the_proxy(
    box: Box, tenant: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box.write_config("conform", f'[service.conform]\ncommand = ["/usr/bin/python3", "-I", "/src/{APP}"]\n')
    name = tenant("conform")
    box.run(["ten", "spawn", name])
    address = f"{name.split(':')[1]}.conform.localhost:80"
    with app_without_proxy(box) as direct:
        expected = verdicts(direct, tmp_path / "direct")
        seen = verdicts(address, tmp_path / "proxied")
        different = {case for case, outcome in seen.items() if outcome[0] not in GOOD} - {
            case for case, outcome in expected.items() if outcome[0] not in GOOD
        }
        # Several cases are a race between two ends that close: only one that differs again does differ.
        if different:
            expected |= verdicts(direct, tmp_path / "direct-again", *different)
            seen |= verdicts(address, tmp_path / "proxied-again", *different)
    with capsys.disabled():
        counts = collections.Counter(outcome[0] for outcome in seen.values())
        print(f"\nAutobahn, {len(seen)} cases through the proxy: {dict(counts)}")
        print(f"not good: {sorted(case for case, outcome in seen.items() if outcome[0] not in GOOD)}")
    assert len(seen) == len(expected) >= 300
    assert counts["OK"] >= 285
    assert {case: seen[case] for case in different if seen[case][0] not in GOOD} == {
        case: expected[case] for case in different if seen[case][0] not in GOOD
    }
