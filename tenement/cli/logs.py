"""`ten logs`: journalctl with the tenants' units chosen, and a search. See journalctl(1).

The options are journalctl's own and are passed on as they are: the output is journalctl's, byte for byte.
Who may not read the journal asks the log reader (tenement.logs.reader), who writes to the same terminal.
"""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from tenement.client import NOT_ALLOWED
from tenement.errors import Denied, Unreachable
from tenement.logs.command import Plan
from tenement.logs.journal_file import DIRECTORIES
from tenement.logs.options import OPTIONS, UnknownOption, split
from tenement.logs.reader import ENVIRONMENT, SOCKET

__all__ = ["OPTIONS", "UnknownOption", "run", "split"]

_LESS: Final = "FRSXMK"
"""The options that systemd's own commands give less(1)."""


def run(arguments: Sequence[str]) -> int:
    """Shows lines, and gives the exit status. Raises UnknownOption, InvalidName, NotFound or Denied."""
    plan = Plan(arguments)
    direct = may_read_journal()
    if direct and plan.words is None:
        return plan.run()
    with _pager(wanted=plan.paged and sys.stdout.isatty()):
        return plan.run() if direct else _ask_reader(arguments)


def may_read_journal() -> bool:
    """Whether this process can read the journal without help; also if there is none."""
    files = [path for directory in DIRECTORIES for path in directory.glob("*/system.journal")]
    return all(os.access(path, os.R_OK) for path in files)


def _ask_reader(arguments: Sequence[str]) -> int:
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    request = json.dumps({"arguments": list(arguments), "environment": environment}).encode() + b"\n"
    sys.stdout.flush()
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(SOCKET)
            socket.send_fds(connection, [request], [sys.stdout.fileno(), sys.stderr.fileno()])
            status = connection.recv(1)
        except PermissionError as error:
            raise Denied(NOT_ALLOWED) from error
        except OSError as error:
            raise Unreachable("The log reader (tenement-log-reader.socket) does not answer") from error
    if not status:
        raise Unreachable("The log reader ended before it was done")
    return status[0]


@contextmanager
def _pager(*, wanted: bool) -> Iterator[None]:
    """Standard output is a pager's input, if one is wanted and there is one."""
    words = shlex.split(os.environ.get("SYSTEMD_PAGER", os.environ.get("PAGER", "less")))
    if not wanted or not words or words == ["cat"] or shutil.which(words[0]) is None:
        yield
        return
    environment = {"LESS": _LESS, "LESSCHARSET": "utf-8", **os.environ}
    os.environ.setdefault("SYSTEMD_COLORS", "1")
    with subprocess.Popen(words, stdin=subprocess.PIPE, env=environment) as pager:
        assert pager.stdin is not None
        sys.stdout.flush()
        terminal = os.dup(sys.stdout.fileno())
        os.dup2(pager.stdin.fileno(), sys.stdout.fileno())
        pager.stdin.close()
        try:
            yield
        finally:
            try:
                sys.stdout.flush()
            finally:
                os.dup2(terminal, sys.stdout.fileno())
                os.close(terminal)
