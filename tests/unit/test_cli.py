import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest

from tenement import __version__
from tenement.cli import destination, logs, main
from tenement.cli.listing import details, listing
from tenement.cli.text import Screen, ago, printable, size, table
from tenement.client import NOT_ALLOWED
from tenement.errors import AlreadyExists, Denied, InvalidConfig, NotFound, Problem, StartFailed, Unreachable
from tenement.logs import journalctl

NOW = 1_000_000_000.0
LONG = "notes:" + "a" * 63
ALICE: dict[str, Any] = {
    "tenant": "notes:alice",
    "service": "notes",
    "id": "alice",
    "state": "running",
    "since": NOW - 300,
    "reason": None,
    "enabled": True,
    "weight": 100,
    "url": "http://alice.notes.localhost/",
    "unit": "tenement-notes@alice.service",
}


class FakeClient:
    """The manager as `ten` sees it: tenants, and what was asked of them."""

    def __init__(self, entries: dict[str, dict[str, Any]]) -> None:
        self.entries = entries
        self.calls: list[tuple[object, ...]] = []
        self.failure: Exception | None = None

    async def __aenter__(self) -> Self:
        if self.failure:
            raise self.failure
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def _find(self, service: str, id_: str) -> dict[str, Any]:
        try:
            return self.entries[f"{service}:{id_}"]
        except KeyError:
            raise NotFound(f"{service}:{id_}: no such tenant") from None

    async def spawn(self, service: str, id_: str, *, start: bool = True) -> None:
        name = f"{service}:{id_}"
        if name in self.entries:
            raise AlreadyExists(f"{name}: exists already")
        if id_ == "broken":
            raise StartFailed(f"{name}: exited with status 1")
        self.calls.append(("spawn", service, id_, start))
        self.entries[name] = ALICE | {"tenant": name, "url": f"http://{id_}.{service}.localhost/"}

    async def stop(self, service: str, id_: str) -> None:
        self._find(service, id_)
        self.calls.append(("stop", service, id_))

    async def remove(self, service: str, id_: str, *, purge: bool) -> None:
        self._find(service, id_)
        self.calls.append(("remove", service, id_, purge))

    async def set_weight(self, service: str, id_: str, weight: int) -> None:
        self.calls.append(("set_weight", service, id_, weight))

    async def list(self, selector: str = "") -> list[dict[str, Any]]:
        return [
            entry
            for name, entry in self.entries.items()
            if selector in ("", name) or name.startswith(f"{selector}:")
        ]

    async def status(self, service: str, id_: str) -> dict[str, Any]:
        return self._find(service, id_)

    async def reload(self) -> dict[str, Any]:
        return {"changed": ["notes"], "warnings": ["service.notes.isolation: beware"]}

    async def version(self) -> str:
        return "9.9"


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    fake = FakeClient({"notes:alice": ALICE, LONG: ALICE | {"tenant": LONG, "state": "asleep"}})
    monkeypatch.setattr(destination, "Client", lambda: fake)
    return fake


type Ten = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ten(capsys: pytest.CaptureFixture[str]) -> Ten:
    """Runs `ten` and returns its exit status, what it wrote, and what it complained of."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        written = capsys.readouterr()
        return status, written.out, written.err

    return run


def test_several_tenants_are_stopped_by_one_command(ten: Ten, manager: FakeClient) -> None:
    assert ten("stop", "notes:alice", LONG, "notes:alice") == (0, "", "")
    assert sorted(call[2] for call in manager.calls) == sorted(["alice", "a" * 63])


def test_a_missing_tenant_is_reported_and_the_others_are_stopped(ten: Ten, manager: FakeClient) -> None:
    status, out, err = ten("stop", "notes:nope", "notes:alice")
    assert (status, out) == (3, "")
    assert err == "ten: notes:nope: no such tenant. See 'ten ps'.\n"
    assert manager.calls == [("stop", "notes", "alice")]


def test_a_wrong_name_among_others_stops_none(ten: Ten, manager: FakeClient) -> None:
    status, _, err = ten("stop", "notes:alice", "notes:Bob")
    assert status == 2
    assert err == "ten: tenant id 'Bob' must be lower case: write 'bob'\n"
    assert manager.calls == []


def test_spawn_tells_the_address_and_the_time(ten: Ten, manager: FakeClient) -> None:
    status, out, err = ten("spawn", "notes:bob")
    assert (status, err) == (0, "")
    assert out.startswith("notes:bob  http://bob.notes.localhost/  started in 0.0")
    assert manager.calls == [("spawn", "notes", "bob", True)]


def test_spawn_without_a_start_says_so(ten: Ten, manager: FakeClient) -> None:
    status, out, _ = ten("spawn", "--no-start", "--json", "notes:bob")
    assert status == 0
    assert json.loads(out)[0] | {"seconds": 0} == {
        "tenant": "notes:bob",
        "url": "http://bob.notes.localhost/",
        "started": False,
        "seconds": 0,
    }


def test_a_failed_start_points_to_the_log(ten: Ten, manager: FakeClient) -> None:
    assert ten("spawn", "notes:broken") == (
        6,
        "",
        "ten: notes:broken: exited with status 1. See 'ten logs notes:broken'.\n",
    )


def test_what_exists_is_not_made_again(ten: Ten, manager: FakeClient) -> None:
    status, _, err = ten("spawn", "notes:alice")
    assert status == 8
    assert err == "ten: notes:alice: exists already. See 'ten status notes:alice'.\n"


@pytest.mark.parametrize(
    ("failure", "status", "line"),
    [
        (Denied(NOT_ALLOWED), 4, f"ten: {NOT_ALLOWED}\n"),
        (
            Unreachable("tenement's manager does not answer"),
            7,
            "ten: tenement's manager does not answer. See 'systemctl status tenement-manager'.\n",
        ),
    ],
)
def test_no_manager_and_no_permission_are_said_once(
    ten: Ten, manager: FakeClient, failure: Exception, status: int, line: str
) -> None:
    manager.failure = failure
    assert ten("stop", "notes:alice", LONG) == (status, "", line)
    assert ten("ps") == (status, "", line)


def test_what_is_refused_for_every_tenant_is_said_once(
    ten: Ten, manager: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise Denied(NOT_ALLOWED)

    monkeypatch.setattr(manager, "stop", refuse)
    assert ten("stop", "notes:alice", LONG) == (4, "", f"ten: {NOT_ALLOWED}\n")


def test_a_hint_of_the_manager_s_is_not_repeated(
    ten: Ten, manager: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise NotFound("notes:alice: no such tenant. See 'ten ps'.")

    monkeypatch.setattr(manager, "stop", fail)
    assert ten("stop", "notes:alice")[2] == "ten: notes:alice: no such tenant. See 'ten ps'.\n"


def test_removal_is_not_done_unasked(ten: Ten, manager: FakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    status, _, err = ten("rm", "notes:alice")
    assert status == 2
    assert "say -y" in err
    assert manager.calls == []
    assert ten("rm", "-y", "--purge", "notes:alice") == (0, "", "")
    assert manager.calls == [("remove", "notes", "alice", True)]


@pytest.mark.parametrize(("answer", "removed"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_removal_on_a_terminal_is_asked_for(
    ten: Ten, manager: FakeClient, monkeypatch: pytest.MonkeyPatch, answer: str, removed: bool
) -> None:
    terminal = io.StringIO(answer)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    status, _, err = ten("rm", "notes:alice")
    assert status == (0 if removed else 1)
    assert "Remove notes:alice? Their data is kept." in err
    assert bool(manager.calls) is removed


def test_weights_are_numbers_from_nought(ten: Ten, manager: FakeClient) -> None:
    assert ten("weight", "notes:alice", "5")[0] == 0
    assert manager.calls == [("set_weight", "notes", "alice", 5)]
    assert ten("weight", "notes:alice", "-5")[0] == 2
    assert ten("weight", "notes:alice", "x")[0] == 2


def test_ps_in_a_pipe_has_whole_names_and_no_colour(
    ten: Ten, manager: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("TERM", raising=False)
    status, out, _ = ten("ps")
    header, *rows = out.splitlines()
    assert status == 0
    assert header.split() == ["TENANT", "STATE", "SINCE", "WEIGHT", "URL", "REASON"]
    assert [row.split()[0] for row in rows] == [LONG, "notes:alice"]
    assert "\x1b" not in out
    assert "..." not in out


def test_ps_shows_what_was_asked_for(ten: Ten, manager: FakeClient) -> None:
    assert ten("ps", "-q")[1] == f"{LONG}\nnotes:alice\n"
    assert ten("ps", "-q", "--state", "running", "--state", "failed")[1] == "notes:alice\n"
    assert ten("ps", "-q", "blog")[1] == ""
    assert ten("ps", "-q", "notes:alice", "notes:alice")[1] == "notes:alice\n"
    assert json.loads(ten("ps", "--json", "notes:alice")[1]) == [ALICE]


@pytest.mark.parametrize("arguments", [("--state", "runing"), ("Notes",), ("notes:",), ("--nope",)])
def test_ps_refuses_what_it_cannot_mean(ten: Ten, manager: FakeClient, arguments: tuple[str, ...]) -> None:
    status, out, err = ten("ps", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("ten: ")
    assert err.count("\n") == 1


def test_status_without_names_is_a_summary(ten: Ten, manager: FakeClient) -> None:
    assert ten("status")[1] == "tenement 9.9: 2 tenants (1 running, 1 asleep)\n"
    assert json.loads(ten("status", "--json")[1]) == {
        "version": "9.9",
        "tenants": 2,
        "states": {"asleep": 1, "running": 1},
    }


def test_status_shows_those_that_exist(ten: Ten, manager: FakeClient) -> None:
    status, out, err = ten("status", "notes:alice", "notes:nope")
    assert status == 3
    assert out.startswith("notes:alice - running since ")
    assert err == "ten: notes:nope: no such tenant. See 'ten ps'.\n"


def test_reload_tells_changes_and_warnings(ten: Ten, manager: FakeClient) -> None:
    assert ten("reload") == (0, "notes\n", "ten: warning: service.notes.isolation: beware\n")
    assert json.loads(ten("reload", "--json")[1])["changed"] == ["notes"]


def test_every_problem_of_the_configuration_is_a_line(
    ten: Ten, manager: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse() -> dict[str, Any]:
        raise InvalidConfig([Problem("one", file="a.toml", line=1), Problem("two", file="b.toml")])

    monkeypatch.setattr(manager, "reload", refuse)
    assert ten("reload") == (5, "", "ten: a.toml:1: one\nten: b.toml: two\n")


def test_version_works_without_a_manager(ten: Ten, manager: FakeClient) -> None:
    assert ten("version") == (0, f"tenement {__version__} (manager: 9.9)\n", "")
    manager.failure = Unreachable("no")
    assert ten("version") == (0, f"tenement {__version__} (manager: not reachable)\n", "")
    assert ten("--version") == (0, f"tenement {__version__}\n", "")


@pytest.mark.parametrize("arguments", [("nope",), ("stop",), ("config", "nope"), ("spawn", "--nope", "a:b")])
def test_wrong_usage_is_one_line_and_status_2(ten: Ten, arguments: tuple[str, ...]) -> None:
    status, out, err = ten(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("ten: ")
    assert err.count("\n") == 1
    assert "--help'" in err


def test_config_check_reports_every_problem(ten: Ten, tmp_path: Path) -> None:
    file = tmp_path / "tenement.toml"
    file.write_text('[service.notes]\ncommand = "/bin/sh"\nidle_timout = 3\nlisten = "x"\n')
    status, out, err = ten("config", "check", str(tmp_path))
    assert (status, out) == (5, "")
    assert err.splitlines() == [
        f"ten: {file}:3: service.notes.idle_timout: unknown setting. Did you mean idle_timeout?",
        f'ten: {file}:4: service.notes.listen: must be "port", "socket" or "fd", not "x"',
    ]
    problems = json.loads(ten("config", "check", "--json", str(file))[1])["problems"]
    assert [(p["line"], p["key"]) for p in problems] == [
        (3, "service.notes.idle_timout"),
        (4, "service.notes.listen"),
    ]


def test_config_check_is_content_with_what_is_right(ten: Ten, tmp_path: Path) -> None:
    (tmp_path / "tenement.toml").write_text('[service.notes]\ncommand = "/bin/sh"\nisolation = "process"\n')
    status, out, err = ten("config", "check", str(tmp_path))
    assert (status, out) == (0, "The configuration is right: 1 service.\n")
    assert err.startswith("ten: warning: service.notes.isolation: ")


def test_a_reader_that_left_gets_no_complaint(monkeypatch: pytest.MonkeyPatch, manager: FakeClient) -> None:
    read_end, write_end = _broken_pipe()
    monkeypatch.setattr(sys, "stdout", write_end)
    assert main(["ps"]) == 1
    write_end.close()
    assert read_end.closed


def _broken_pipe() -> tuple[io.FileIO, io.TextIOWrapper]:
    import os

    reader, writer = os.pipe()
    read_end = io.FileIO(reader)
    read_end.close()
    return read_end, os.fdopen(writer, "w", encoding="utf-8")


# Text.


def test_a_table_on_a_terminal_cuts_its_last_column_only() -> None:
    rows = [["notes:" + "a" * 30, "x" * 80]]
    lines = table(("TENANT", "REASON"), rows, Screen(width=60))
    assert lines[1].startswith("notes:" + "a" * 30)
    assert len(lines[1]) == 60
    assert lines[1].endswith("...")
    assert table(("TENANT", "REASON"), rows, Screen(width=10))[1].endswith("x" * 80)
    assert table(("TENANT", "REASON"), rows, Screen())[1].endswith("x" * 80)


def test_states_have_colours_on_a_terminal() -> None:
    entry = ALICE | {"tenant": "running:running", "state": "running"}
    line = listing([entry], Screen(width=100, coloured=True), NOW)[1]
    assert line.startswith("running:running  \x1b[32mrunning\x1b[0m  5min ago  100")


def test_fields_that_are_absent_or_strange_are_left_out() -> None:
    assert listing([{}], Screen(), NOW)[1].split() == ["-", "-", "-", "-", "-"]
    assert details({"tenant": "notes:alice"}, NOW) == ["notes:alice - -"]
    assert details({"tenant": "a:b", "state": "asleep", "memory_bytes": "many", "since": True}, NOW) == [
        "a:b - asleep"
    ]


def test_status_is_told_in_the_manner_of_systemctl() -> None:
    entry = ALICE | {
        "memory_bytes": 12 * 1024 * 1024,
        "cpu_usec": 1_500_000,
        "result": "exit-code",
        "exit_status": 1,
        "last_line": "Boom\x1b[2J\nnext",
        "data_dir": "/var/lib/tenement/notes/alice",
        "data_bytes": 2048,
    }
    lines = [line.strip() for line in details(entry, NOW)]
    assert "Memory: 12.0M" in lines
    assert "CPU: 1.500s" in lines
    assert "Last result: exit-code, status 1" in lines
    assert "Last line: Boom\\x1b[2J next" in lines
    assert "Data: /var/lib/tenement/notes/alice (2.0K)" in lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("é", "é"),
        ("a\x1b]8;;x\x07", "a\\x1b]8;;x\\x07"),
        ("a\nb\tc", "a b c"),
        ("\u202e", "\\u202e"),
    ],
)
def test_nothing_an_app_wrote_steers_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_times_and_sizes_are_short() -> None:
    assert [ago(NOW - s, NOW) for s in (0, 59, 60, 3600, 90000, -5)] == [
        "0s ago",
        "59s ago",
        "1min ago",
        "1h ago",
        "1d ago",
        "0s ago",
    ]
    assert [size(n) for n in (0, 1023, 1024, 1024**3 * 1.5, 1024**4 * 2)] == [
        "0B",
        "1023B",
        "1.0K",
        "1.5G",
        "2.0T",
    ]


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
    ],
)
def test_colour_needs_a_terminal_that_has_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], coloured: bool
) -> None:
    for name in ("TERM", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    assert Screen.of(terminal) == Screen(width=80, coloured=coloured)
    assert Screen.of(io.StringIO()) == Screen()


# Logs.


@pytest.mark.parametrize(
    ("arguments", "options", "selectors"),
    [
        ("notes:alice", "", "notes:alice"),
        ("notes:alice -f -n 50", "-f -n 50", "notes:alice"),
        ("-n notes:alice", "-n", "notes:alice"),
        ("-fn50 notes", "-f -n50", "notes"),
        ("-rn 5", "-r -n 5", ""),
        ("-n +5 --utc", "-n +5 --utc", ""),
        ("--lines=5 --lines 5 -n all", "--lines=5 --lines 5 -n all", ""),
        ("-S -1h notes:alice", "-S -1h", "notes:alice"),
        ("-b notes:alice", "-b", "notes:alice"),
        ("-b -1 notes:alice", "-b -1", "notes:alice"),
        ("-g a.*b -p err -o json-pretty", "-g a.*b -p err -o json-pretty", ""),
        ("-f -- notes:alice", "-f", "notes:alice"),
    ],
)
def test_options_of_journalctl_are_told_from_tenants(arguments: str, options: str, selectors: str) -> None:
    assert logs.split(arguments.split()) == (options.split(), selectors.split())


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ("--file=/etc/shadow", "no such option: --file"),
        ("-D /x", "no such option: -D"),
        ("-S", "-S needs a value: TIME"),
        ("-fx", "no such option: -x"),
        ("--follow=1", "--follow takes no value"),
    ],
)
def test_other_options_are_refused(arguments: str, fault: str) -> None:
    with pytest.raises(logs.UnknownOption, match=fault):
        logs.split(arguments.split())


def test_logs_become_journalctl_for_the_units(ten: Ten, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def execvp(_: str, arguments: list[str]) -> NoReturn:
        called.append(arguments)
        raise SystemExit

    monkeypatch.setattr(os, "execvp", execvp)
    monkeypatch.setattr(logs, "may_read_journal", lambda: True)
    monkeypatch.setattr(journalctl, "known_services", lambda: ["blog", "my-app"])
    for arguments in (["notes:alice", "notes:bob", "-fn5"], ["-S", "-1h"]):
        with pytest.raises(SystemExit):
            ten("logs", *arguments)
    assert called == [
        [
            *("journalctl", "-f", "-n5"),
            *("--unit=tenement-notes@alice.service", "--unit=tenement-notes@bob.service"),
        ],
        [
            *("journalctl", "-S", "-1h"),
            *("_SYSTEMD_SLICE=tenement-blog.slice", "+", "_TRANSPORT=stdout", "TENANT_SERVICE=blog", "+"),
            *("_PID=1", "TENANT_SERVICE=blog", "+"),
            *(r"_SYSTEMD_SLICE=tenement-my\x2dapp.slice", "+"),
            *("_TRANSPORT=stdout", "TENANT_SERVICE=my-app", "+", "_PID=1", "TENANT_SERVICE=my-app"),
        ],
    ]
    assert ten("logs", "notes:*")[0] == 2
    assert ten("logs", "*")[0] == 2
    assert ten("logs", "-x", "notes")[2] == "ten: no such option: -x. See 'ten logs --help'.\n"
