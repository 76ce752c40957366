"""Running commands, and telling the user what takes the time and what went wrong."""

import contextlib
import fcntl
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path


class BoxError(Exception):
    """Something the user has to know; printed in one line, with the end of `log` if there is one."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP arrived; unwinds through every clean-up, then ends with 128 + the signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def say(text: str) -> None:
    """Tell the user what takes the time, on standard error."""
    print(f"box: {text}", file=sys.stderr, flush=True)


def report(error: BoxError) -> None:
    """Print an error, below the end of its log."""
    if error.log and error.log.exists():
        tail = error.log.read_text(errors="replace").splitlines()[-60:]
        print("\n".join(tail), file=sys.stderr)
        say(f"the whole log is {error.log}")
    say(str(error))


def run_logged(command: Sequence[str | Path], log: Path, *, env: dict[str, str] | None = None) -> None:
    """Run a command with its output appended to `log`; raises BoxError that shows the log when it fails."""
    with log.open("ab") as output:
        output.write(f"+ {shlex.join(map(str, command))}\n".encode())
        output.flush()
        status = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, check=False
        ).returncode
    if status:
        raise BoxError(f"{command[0]} failed with status {status}", log)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; says so when it has to wait for another run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another run that holds {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
