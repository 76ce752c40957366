"""The log reader: lets members of group tenement read tenants' logs, who may not read the journal itself.

A process of its own for each connection to its socket, which only root and that group can open. It has no
privilege but group systemd-journal. The client sends its arguments and its standard output and error; what it
gets written there is what the arguments ask for, after the same checks as everywhere: lines of tenants, and
options from a fixed list. When either side ends, so does the other.
"""

import json
import os
import re
import select
import signal
import socket
import sys
from typing import Final

from tenement.errors import TenementError
from tenement.logs.command import Plan
from tenement.logs.options import UnknownOption

SOCKET: Final = "/run/tenement-log-reader.sock"

ENVIRONMENT: Final = {
    # How times and characters are written; all of the client's environment that is taken over.
    "TZ": re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}"),
    "LANG": re.compile(r"[A-Za-z0-9_.@-]{1,64}"),
    "LC_ALL": re.compile(r"[A-Za-z0-9_.@-]{1,64}"),
    "LC_TIME": re.compile(r"[A-Za-z0-9_.@-]{1,64}"),
    "COLUMNS": re.compile(r"[0-9]{1,5}"),
    "SYSTEMD_COLORS": re.compile(r"[a-z0-9]{1,8}"),
}

_REQUEST_MAX: Final = 64 * 1024
_REQUEST_TIMEOUT_S: Final = 10.0
_FIRST_FD: Final = 3
_USAGE_STATUS: Final = 2


def main() -> int:
    """Serves the connection that systemd passed on."""
    with socket.socket(fileno=_FIRST_FD) as connection:
        connection.settimeout(_REQUEST_TIMEOUT_S)
        try:
            arguments, environment, out, err = _receive(connection)
        except (OSError, ValueError) as error:
            print(f"a request without sense: {error}", file=sys.stderr)
            return 1
        child = os.fork()
        if not child:
            connection.close()
            _become(arguments, environment, out, err)
        os.close(out)
        os.close(err)
        status = _supervise(connection, child)
        try:
            connection.send(bytes([status]))
        except OSError:
            # The client ended first.
            return 0
    return 0


def _receive(connection: socket.socket) -> tuple[list[str], dict[str, str], int, int]:
    """The arguments, the environment, and where to write. Raises ValueError or OSError."""
    data, fds, _, _ = socket.recv_fds(connection, _REQUEST_MAX, 2)
    if len(fds) != 2:
        raise ValueError("it came without output and error")
    while not data.endswith(b"\n"):
        more = connection.recv(_REQUEST_MAX)
        if not more or len(data) > _REQUEST_MAX:
            raise ValueError("it has no end")
        data += more
    match json.loads(data):
        case {"arguments": list() as arguments, "environment": dict() as environment} if all(
            isinstance(each, str) and "\0" not in each
            for each in (*arguments, *environment, *environment.values())
        ):
            return arguments, environment, fds[0], fds[1]
    raise ValueError("it is of another form")


def _become(arguments: list[str], environment: dict[str, str], out: int, err: int) -> None:
    """In the child: carries out the request, and ends."""
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    taken = {
        name: value
        for name, value in environment.items()
        if name in ENVIRONMENT and ENVIRONMENT[name].fullmatch(value)
    }
    os.environ.update(taken)
    status = 1
    try:
        plan = Plan([*arguments, "--no-pager"] if "--" not in arguments else ["--no-pager", *arguments])
        status = plan.run()
        sys.stdout.flush()
    except UnknownOption as error:
        os.write(2, f"ten: {error}\n".encode(errors="replace"))
        status = _USAGE_STATUS
    except TenementError as error:
        os.write(2, f"ten: {error}\n".encode(errors="replace"))
        status = error.exit_code
    except BrokenPipeError:
        # Whoever read has enough.
        status = 1
    finally:
        os._exit(status)


def _supervise(connection: socket.socket, child: int) -> int:
    """Waits for the child, ends it if the client goes away, and gives its exit status."""
    pidfd = os.pidfd_open(child)
    ready, _, _ = select.select([pidfd, connection.fileno()], [], [])
    if pidfd not in ready:
        os.killpg(child, signal.SIGKILL)
    _, state = os.waitpid(child, 0)
    os.close(pidfd)
    status = os.waitstatus_to_exitcode(state)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
