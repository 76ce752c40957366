import pytest

from tenement import errors
from tenement.errors import (
    Denied,
    Internal,
    InvalidConfig,
    InvalidName,
    NotFound,
    Problem,
    StartFailed,
    StartTimeout,
    TenementError,
    from_dbus,
)

CLASSES = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, TenementError) and cls is not TenementError
]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_survives_the_bus(cls: type[TenementError]) -> None:
    sent = cls.from_message("notes:alice: something happened")
    received = from_dbus(sent.dbus_name, str(sent))
    assert type(received) is cls
    assert received.message == sent.message
    assert sent.dbus_name == f"dev.tenement.Error.{cls.__name__}"


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_has_a_status_for_http_and_for_the_shell(cls: type[TenementError]) -> None:
    error = cls.from_message("x")
    assert 400 <= error.http_status <= 504
    assert 1 <= error.exit_code < 126


def test_a_subclass_has_what_its_base_has() -> None:
    class Special(NotFound):
        pass

    assert Special("x").code == "NotFound"
    assert Special("x").http_status == 404


@pytest.mark.parametrize(
    "name", ["org.freedesktop.DBus.Error.NoReply", "dev.tenement.Error.Unheard", "", "NotFound"]
)
def test_other_names_are_internal_errors(name: str) -> None:
    error = from_dbus(name, "text")
    assert type(error) is Internal
    assert error.message == f"text ({name})"


def test_facts_are_attributes() -> None:
    failed = StartFailed(
        "notes:alice: exited", tenant="notes:alice", result="exit-code", exit_status=1, last_line="x"
    )
    assert (failed.tenant, failed.result, failed.exit_status, failed.last_line) == (
        "notes:alice",
        "exit-code",
        1,
        "x",
    )
    assert StartTimeout("late", after_s=3.0, retry_after_s=5).after_s == 3.0
    assert Denied("no").tenant is None


def test_a_long_name_is_cut_in_the_message_only() -> None:
    error = InvalidName.of("tenant id", "x" * 500, "must be shorter")
    assert len(error.message) < 120
    assert error.value == "x" * 500


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (Problem("is missing"), "is missing"),
        (Problem("is missing", file="a.toml"), "a.toml: is missing"),
        (Problem("is missing", file="a.toml", line=3), "a.toml:3: is missing"),
        (
            Problem("unknown setting", file="a.toml", line=3, key="a.b", hint="Did you mean c?"),
            "a.toml:3: a.b: unknown setting. Did you mean c?",
        ),
    ],
)
def test_a_problem_is_one_line(problem: Problem, line: str) -> None:
    assert str(problem) == line


def test_problems_of_a_configuration_are_told_one_a_line() -> None:
    error = InvalidConfig([Problem("one", file="a"), Problem("two", file="b", line=2)])
    assert str(error) == "a: one\nb:2: two"
    assert [p.message for p in InvalidConfig.from_message(str(error)).problems] == ["a: one", "b:2: two"]
