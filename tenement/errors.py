"""Errors that cross a boundary: each class has one D-Bus name, one HTTP status and one exit code.

The message is for people and names the tenant ("notes:alice: no such tenant", no full stop); facts that a
caller acts on are attributes. An error that came over the bus has its class and its message; its other facts
are None.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

DBUS_PREFIX: Final = "dev.tenement.Error."


class TenementError(Exception):
    """Base of all errors of tenement.

    `tenant` is "service:id", or None if the error concerns no single tenant. `retry_after_s` is the number of
    seconds after which trying again makes sense, or None if it does not.
    """

    def __init__(
        self, message: str, *, tenant: str | None = None, retry_after_s: float | None = None
    ) -> None:
        """Takes the message and the facts that are known."""
        super().__init__(message)
        self.message = message
        self.tenant = tenant
        self.retry_after_s = retry_after_s

    @classmethod
    def from_message(cls, message: str) -> Self:
        """The error as told by another process, without facts besides the message."""
        return cls(message)

    @property
    def code(self) -> str:
        """The last part of its D-Bus name, for example "NotFound"."""
        return _row(type(self)).code

    @property
    def dbus_name(self) -> str:
        """Its D-Bus name, for example "dev.tenement.Error.NotFound"."""
        return DBUS_PREFIX + self.code

    @property
    def http_status(self) -> int:
        """The status of the HTTP answer it becomes."""
        return _row(type(self)).http_status

    @property
    def exit_code(self) -> int:
        """The exit status of a command that it ends. See ten(1)."""
        return _row(type(self)).exit_code


class InvalidName(TenementError):
    """A name breaks a rule.

    `kind`, `value` and `rule` say which; see `InvalidName.of`.
    """

    kind: str | None = None
    value: str | None = None
    rule: str | None = None

    @classmethod
    def of(cls, kind: str, value: str, rule: str) -> Self:
        """The error for a `value` of a `kind` ("tenant id") that breaks a `rule` ("must not be empty")."""
        shown = value if len(value) <= 80 else value[:77] + "..."
        error = cls(f"{kind} {shown!r} {rule}")
        error.kind, error.value, error.rule = kind, value, rule
        return error


class NotFound(TenementError):
    """There is no such tenant or service."""


class AlreadyExists(TenementError):
    """The tenant exists already."""


class Disabled(TenementError):
    """The tenant was disabled by the operator."""


class StartFailed(TenementError):
    """The app ended before it was ready, or cannot be started.

    `result` is systemd's word for it ("exit-code", "signal", "resources"), `exit_status` the exit status or
    signal number, `last_line` the last line the app printed.
    """

    def __init__(
        self,
        message: str,
        *,
        tenant: str | None = None,
        retry_after_s: float | None = None,
        result: str | None = None,
        exit_status: int | None = None,
        last_line: str | None = None,
    ) -> None:
        """Takes the message and the facts that are known."""
        super().__init__(message, tenant=tenant, retry_after_s=retry_after_s)
        self.result = result
        self.exit_status = exit_status
        self.last_line = last_line


class StartTimeout(TenementError):
    """The app was not ready within its `startup_timeout`.

    `after_s` is that number of seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        tenant: str | None = None,
        retry_after_s: float | None = None,
        after_s: float | None = None,
    ) -> None:
        """Takes the message and the facts that are known."""
        super().__init__(message, tenant=tenant, retry_after_s=retry_after_s)
        self.after_s = after_s


class Overloaded(TenementError):
    """A limit was reached; the same call may work later."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in the configuration. `str()` gives one line: `FILE:LINE: KEY: message. hint`."""

    message: str
    file: str | None = None
    line: int | None = None
    key: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        """The problem as one line."""
        place = self.file or ""
        if self.file and self.line:
            place += f":{self.line}"
        text = ": ".join(part for part in (place, self.key, self.message) if part)
        return f"{text}. {self.hint}" if self.hint else text


class InvalidConfig(TenementError):
    """The configuration has faults.

    `problems` holds all of them.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Takes at least one problem."""
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))

    @classmethod
    def from_message(cls, message: str) -> Self:
        """The error as told by another process: one problem a line."""
        return cls(Problem(line) for line in message.splitlines() if line)


class Conflict(TenementError):
    """What is asked for contradicts what is going on, for example a start during a removal."""


class Denied(TenementError):
    """The caller may not do this."""


class Unauthorized(TenementError):
    """The token is missing, unknown, expired or revoked."""


class Unreachable(TenementError):
    """The manager does not answer, or there is no system bus.

    Never sent over the bus.
    """


class Internal(TenementError):
    """A fault of tenement itself."""


class _Row(NamedTuple):
    code: str
    http_status: int
    exit_code: int


_TABLE: Final[dict[type[TenementError], _Row]] = {
    InvalidName: _Row("InvalidName", 400, 2),
    NotFound: _Row("NotFound", 404, 3),
    Denied: _Row("Denied", 403, 4),
    Unauthorized: _Row("Unauthorized", 401, 4),
    InvalidConfig: _Row("InvalidConfig", 422, 5),
    StartFailed: _Row("StartFailed", 502, 6),
    StartTimeout: _Row("StartTimeout", 504, 6),
    Unreachable: _Row("Unreachable", 503, 7),
    AlreadyExists: _Row("AlreadyExists", 409, 8),
    Conflict: _Row("Conflict", 409, 8),
    Disabled: _Row("Disabled", 503, 9),
    Overloaded: _Row("Overloaded", 503, 10),
    Internal: _Row("Internal", 500, 1),
}

_BY_CODE: Final = {row.code: cls for cls, row in _TABLE.items()}


def _row(cls: type[TenementError]) -> _Row:
    """The table's row for a class or the nearest of its bases."""
    return next((_TABLE[base] for base in cls.__mro__ if base in _TABLE), _TABLE[Internal])


def exit_codes() -> list[tuple[int, str]]:
    """The exit status of each class of errors and the sentence that says what the class means."""
    return [(row.exit_code, (cls.__doc__ or "").partition("\n")[0]) for cls, row in _TABLE.items()]


def from_dbus(name: str, text: str) -> TenementError:
    """The error for a D-Bus error's name and text; Internal for names that are not tenement's."""
    code = name.removeprefix(DBUS_PREFIX) if name.startswith(DBUS_PREFIX) else ""
    cls = _BY_CODE.get(code)
    if cls is None:
        return Internal(f"{text} ({name})")
    return cls.from_message(text)
