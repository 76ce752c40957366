"""What the benchmarks of the proxy measure with: wrk, curl, and the kernel's accounts of processes."""

import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
# wrk prints for people; this prints what is wanted for us.
_REPORT = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("figures %d %d %d %d\\n", summary.requests, summary.duration, latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def figure(name: str, value: float | str, unit: str, ratio: float | None = None) -> None:
    """Print one result."""
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    if isinstance(value, float) and value >= 1000:
        shown = f"{value:.0f}"
    print(name, shown, unit, "-" if ratio is None else f"{ratio:.2f}", flush=True)


def remark(text: str) -> None:
    """Print a line for people."""
    print(f"# {text}", flush=True)


@dataclass(frozen=True, slots=True)
class Target:
    """A server to be measured: where it listens, the Host that leads to the app, and its processes."""

    name: str
    port: int
    host: str
    pids: tuple[int, ...]
    secure: bool = False

    @property
    def origin(self) -> str:
        """Scheme, host and port of its URLs."""
        return f"{'https' if self.secure else 'http'}://{self.host}:{self.port}"

    def cpu_s(self) -> float:
        """Time on processors that its processes have used."""
        return sum(_cpu_s(pid) for pid in self.pids)

    def private_kb(self) -> int:
        """Memory of its processes that nobody shares, in kB."""
        return sum(_private_kb(pid) for pid in self.pids)


@dataclass
class Load:
    """What wrk saw of one target, a value for each round."""

    rps: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    errors: int = 0

    @property
    def median_rps(self) -> float:
        """Requests a second."""
        return statistics.median(self.rps)

    @property
    def median_p99_ms(self) -> float:
        """The time that one request in a hundred exceeds."""
        return statistics.median(self.p99_ms)

    @property
    def median_cpu_us(self) -> float:
        """The server's own time on a processor for each request."""
        return statistics.median(self.cpu_us)

    @property
    def median_busy(self) -> float:
        """The part of the time that the server was on a processor; 1.0 is one core."""
        return statistics.median(self.busy)


def wrk(target: Target, load: Load, connections: int, seconds: float, core: str | None = None) -> None:
    """Load `target` for a while, from one thread, and note what came of it."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_REPORT)
        script.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name]
        # By address: some of the peers listen on IPv4 only, which costs the kernel less.
        by_address = ["-H", f"Host: {target.host}", f"http://127.0.0.1:{target.port}/"]
        command += [f"{target.origin}/"] if target.secure else by_address
        before, began = target.cpu_s(), time.monotonic()
        output = subprocess.run(pinned(command, core), check=True, capture_output=True, text=True).stdout
        cpu_s, took_s = target.cpu_s() - before, time.monotonic() - began
    match = re.search(r"^figures (\d+) (\d+) (\d+) (\d+)$", output, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"wrk said: {output}")
    requests, duration_us, p99_us, errors = map(int, match.groups())
    load.rps.append(requests / duration_us * 1e6)
    load.p99_ms.append(p99_us / 1000)
    load.cpu_us.append(cpu_s / max(1, requests) * 1e6)
    load.busy.append(cpu_s / took_s)
    load.errors += errors


def transfer_s(target: Target, path: str, upload: Path | None = None) -> float:
    """Fetch `path`, or send a file there, by curl; returns the seconds it took."""
    options = ["-sS", "-k", "-m", "60", "-o", "/dev/null", "-w", "%{http_code} %{time_total}"]
    if upload:
        options += ["-H", "Expect:", "-X", "POST", "-T", str(upload)]
    command = ["curl", *options, target.origin + path]
    status, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    if status != "200":
        raise RuntimeError(f"{target.name} answered {status}")
    return float(seconds)


def pinned(command: Sequence[str], cores: str | None) -> list[str]:
    """The command, kept to some cores (as taskset -c has them)."""
    return ["taskset", "-c", cores, *command] if cores else list(command)


def pin(pids: Iterable[int], cores: str) -> None:
    """Keep processes that run, with all their threads, to some cores."""
    for pid in pids:
        subprocess.run(["taskset", "-a", "-p", "-c", cores, str(pid)], check=True, capture_output=True)


def children(pid: int) -> tuple[int, ...]:
    """The children of a process."""
    return tuple(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _private_kb(pid: int) -> int:
    total = 0
    with suppress(FileNotFoundError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_"):
                total += int(line.split()[1])
    return total
