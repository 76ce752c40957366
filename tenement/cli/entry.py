"""From the arguments of `ten` to its exit status: where every error becomes one line."""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tenement.errors import (
    AlreadyExists,
    Disabled,
    InvalidConfig,
    NotFound,
    StartFailed,
    StartTimeout,
    TenementError,
    Unreachable,
)

if TYPE_CHECKING:
    import click

USAGE_STATUS: Final = 2
_ABORTED_STATUS: Final = 1
_INTERRUPTED_STATUS: Final = 130

_HINTS: Final[dict[type[TenementError], str]] = {
    AlreadyExists: "See 'ten status {tenant}'",
    Disabled: "Run 'ten enable {tenant}'",
    NotFound: "See 'ten ps'",
    StartFailed: "See 'ten logs {tenant}'",
    StartTimeout: "See 'ten logs {tenant}'",
    Unreachable: "See 'systemctl status tenement-manager'",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `ten` with some arguments, by default those of the process, and returns its exit status."""
    for stream in (sys.stdout, sys.stderr):
        # What apps print may not fit the terminal's character set.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except TenementError as error:
        return report(error)
    except KeyboardInterrupt:
        return _INTERRUPTED_STATUS
    except BrokenPipeError:
        # The reader has left, as head(1) does. Python would complain when it flushes at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _ABORTED_STATUS
    return status


def _run(arguments: Sequence[str]) -> int:
    command = build()
    import click

    try:
        status = command.main(list(arguments), prog_name="ten", standalone_mode=False)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "ten"
        complain(_sentence(error.format_message(), f"See '{where} --help'"))
        return USAGE_STATUS
    except click.ClickException as error:
        complain(error.format_message())
        return error.exit_code
    except click.Abort:
        complain("aborted")
        return _ABORTED_STATUS
    return status if isinstance(status, int) else 0


def build() -> "click.Command":
    """The whole command with its subcommands, as click has it."""
    # Typer imports rich, where it is installed, only to draw its help pages: half of what `ten ps` takes.
    absent = "rich" not in sys.modules
    if absent:
        sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        from typer.main import get_command

        from tenement.cli.commands import app
    finally:
        if absent:
            del sys.modules["rich"]
    return get_command(app)


def report(error: TenementError, tenant: str | None = None) -> int:
    """Writes an error, perhaps of a tenant, to standard error. Returns the exit status it asks for."""
    if isinstance(error, InvalidConfig):
        for problem in error.problems:
            complain(str(problem))
        return error.exit_code
    tenant = tenant or error.tenant
    message = error.message if not tenant or tenant in error.message else f"{tenant}: {error.message}"
    hint = next((hint for kind, hint in _HINTS.items() if isinstance(error, kind)), "")
    complain(_sentence(message, hint.format(tenant=tenant) if tenant or "{" not in hint else ""))
    return error.exit_code


def complain(message: str) -> None:
    """Writes one line to standard error."""
    from tenement.cli.text import printable

    print(f"ten: {printable(message)}", file=sys.stderr)


def _sentence(message: str, hint: str) -> str:
    """A message and a hint as two sentences; the message alone if there is no hint or it has it already."""
    return f"{message.rstrip('.')}. {hint}." if hint and hint not in message else message
