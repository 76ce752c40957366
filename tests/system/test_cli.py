import json
import re
import time
from collections.abc import Callable, Iterator

import pytest

from .conftest import Box

type NewTenant = Callable[..., str]


def test_a_tenant_s_life_from_spawn_to_removal(box: Box, tenant: NewTenant) -> None:
    name = tenant()
    id_ = name.partition(":")[2]
    spawned = box.run(["ten", "spawn", name]).stdout
    assert re.fullmatch(rf"{name}  http://{id_}\.notes\.localhost/?  started in \d+\.\d\d s\n", spawned)
    assert box.http(f"{id_}.notes.localhost", "/health").status == 200
    assert f"{name}  running" in box.run(["ten", "ps"]).stdout
    status = box.run(["ten", "status", name]).stdout
    assert f"Unit: tenement-notes@{id_}.service in tenement-notes.slice" in status
    assert re.search(r"User: tn-[a-z2-7]{16}\n", status)
    box.run(["ten", "stop", name])
    assert json.loads(box.run(["ten", "ps", "--json", name]).stdout)[0]["state"] in (
        "asleep",
        "arming",
        "armed",
    )
    box.run(["ten", "disable", name])
    assert box.http(f"{id_}.notes.localhost", "/health").status == 503
    box.run(["ten", "enable", name])
    assert box.http(f"{id_}.notes.localhost", "/health").status == 200
    box.run(["ten", "weight", name, "5"])
    assert json.loads(box.run(["ten", "ps", "--json", name]).stdout)[0]["weight"] == 5
    box.run(["ten", "rm", "--purge", "-y", name])
    assert box.http(f"{id_}.notes.localhost", "/health").status == 404
    assert not (box.root / f"var/lib/private/tenement/notes/{id_}").exists()


def test_removal_keeps_the_data_unless_told_otherwise(box: Box, tenant: NewTenant) -> None:
    name = tenant()
    host = f"{name.partition(':')[2]}.notes.localhost"
    box.run(["ten", "spawn", name])
    box.http(host, "/notes", "POST", body="kept")
    asked = box.run(["ten", "rm", name], check=False)
    assert asked.returncode == 2
    assert "say -y" in asked.stderr
    box.run(["ten", "rm", "-y", name])
    box.run(["ten", "spawn", name])
    assert b"kept" in box.http(host, "/notes").body


@pytest.mark.parametrize(
    ("command", "status", "complaint"),
    [
        ("ten stop notes:absent", 3, "ten: notes:absent: no such tenant. See 'ten ps'.\n"),
        ("ten status notes:absent", 3, "ten: notes:absent: no such tenant. See 'ten ps'.\n"),
        ("ten spawn Notes:alice", 2, "ten: service name 'Notes' must be lower case: write 'notes'\n"),
        ("ten spawn notes:a_b", 2, "ten: tenant id 'a_b' may hold only a-z, 0-9 and '-', not '_'\n"),
        ("ten spawn proxy:1", 2, "ten: service name 'proxy' is taken by tenement's own units\n"),
        ("ten nope", 2, "ten: No such command 'nope'. See 'ten --help'.\n"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    box: Box, command: str, status: int, complaint: str
) -> None:
    done = box.run(command, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", complaint)


def test_an_unknown_service_is_named(box: Box) -> None:
    done = box.run("ten spawn absent:alice", check=False)
    assert done.returncode == 3
    assert "absent" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_exists_is_not_made_again(box: Box, tenant: NewTenant) -> None:
    name = tenant()
    box.run(["ten", "spawn", "--no-start", name])
    done = box.run(["ten", "spawn", name], check=False)
    assert done.returncode == 8
    assert done.stderr == f"ten: {name}: exists already. See 'ten status {name}'.\n"


@pytest.fixture(scope="module")
def crowd(box: Box) -> Iterator[list[str]]:
    """Thirty tenants with ids of fifty characters."""
    names = [f"notes:{number:02}{'x' * 48}" for number in range(30)]
    box.run(["ten", "spawn", "--no-start", *names])
    yield names
    box.run(["ten", "rm", "--purge", "-y", *names])


@pytest.mark.parametrize(
    "environment", ["COLUMNS=40", "-u TERM", "LC_ALL=C", "LC_ALL=de_DE.ISO-8859-1", "-i"]
)
def test_piped_output_has_whole_names_one_line_each(box: Box, crowd: list[str], environment: str) -> None:
    out = box.run(f"env {environment} /usr/bin/ten ps notes | cat").stdout
    assert "\x1b" not in out
    assert "..." not in out
    assert set(crowd) <= {line.split()[0] for line in out.splitlines()}
    assert {
        entry["tenant"] for entry in json.loads(box.run(f"env {environment} /usr/bin/ten ps --json").stdout)
    } >= set(crowd)


def test_names_only_are_for_other_programs(box: Box, crowd: list[str]) -> None:
    box.run("ten ps -q notes | grep xxxx | xargs ten disable")
    states = {entry["state"] for entry in json.loads(box.run(["ten", "ps", "--json", *crowd]).stdout)}
    assert states == {"disabled"}
    box.run(["ten", "enable", *crowd])


def test_a_reader_that_leaves_early_is_no_error(box: Box, crowd: list[str]) -> None:
    assert box.run("ten ps | head -n 1").stderr == ""


def test_a_member_of_group_tenement_manages_and_others_are_refused(box: Box, tenant: NewTenant) -> None:
    box.run("id -u ten-operator >/dev/null 2>&1 || useradd -G tenement ten-operator")
    name = tenant()
    box.run(["ten", "spawn", "--no-start", name], user="ten-operator")
    assert name in box.run("ten ps", user="ten-operator").stdout
    assert "[service.notes]" in box.run("ten config show notes", user="ten-operator").stdout
    for command in ("ten ps", f"ten stop {name}", "ten config check", "ten reload"):
        refused = box.run(command, user="nobody", check=False)
        assert refused.returncode == 4
        assert refused.stderr.startswith("ten: You are not allowed to ")
        assert "group 'tenement'" in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_a_wrong_configuration_is_refused_and_the_old_one_stays(box: Box, tenant: NewTenant) -> None:
    name = tenant()
    box.run(["ten", "spawn", name])
    box.run(
        "install -m 0640 -g tenement /dev/stdin /etc/tenement/tenement.d/wrong.toml",
        input="[service.notes]\nx = 1\n",
    )
    try:
        for command in ("ten config check", "ten reload"):
            refused = box.run(command, check=False)
            assert refused.returncode == 5
            assert refused.stderr == (
                "ten: /etc/tenement/tenement.d/wrong.toml:2: service.notes.x: unknown setting\n"
            )
        assert box.http(f"{name.partition(':')[2]}.notes.localhost", "/health").status == 200
    finally:
        box.run("rm /etc/tenement/tenement.d/wrong.toml; ten reload")


def test_logs_are_those_of_journalctl_for_the_unit(box: Box, tenant: NewTenant) -> None:
    name = tenant()
    id_ = name.partition(":")[2]
    box.run(["ten", "spawn", name])
    box.http(f"{id_}.notes.localhost", "/notes")
    box.run("journalctl --sync")
    for options in (
        "",
        "-n 3",
        "-r -o short-iso",
        "--utc -o verbose",
        "-b -p info",
        "-g GET -o cat",
        "-S -1h",
    ):
        ours = box.run(f"ten logs {name} --no-pager {options}").stdout
        theirs = box.run(f"journalctl -u tenement-notes@{id_}.service --no-pager {options}").stdout
        assert ours == theirs
    # The order of a JSON object's fields is different each time that journalctl runs.
    ours = box.run(f"ten logs {name} --no-pager -o json").stdout
    theirs = box.run(f"journalctl -u tenement-notes@{id_}.service --no-pager -o json").stdout
    assert list(map(json.loads, ours.splitlines())) == list(map(json.loads, theirs.splitlines()))


@pytest.mark.parametrize("selector", ["notes", ""])
def test_logs_of_a_service_or_of_all_hold_every_tenant(box: Box, tenant: NewTenant, selector: str) -> None:
    names = [tenant(), tenant()]
    box.run(["ten", "spawn", *names])
    box.run("journalctl --sync")
    logs = box.run(f"ten logs {selector} -n all --no-pager -o json --since -5min").stdout
    assert set(names) <= {json.loads(line).get("TENANT") for line in logs.splitlines()}


def test_ps_costs_little_more_than_the_interpreter_and_its_event_loop(box: Box) -> None:
    def once(command: str) -> float:
        began = time.monotonic()
        box.run(command)
        return time.monotonic() - began

    # A quarter of a second on a quiet machine, where this import takes 60 ms. The best of some, taken in
    # turns: other processes may be busy.
    pairs = [(once("ten ps"), once("python3 -c 'import asyncio, ssl, inspect'")) for _ in range(7)]
    assert min(ours for ours, _ in pairs) < 3 * min(theirs for _, theirs in pairs)


def test_completion_and_manual_pages_are_installed(box: Box) -> None:
    for path in (
        "usr/share/bash-completion/completions/ten",
        "usr/share/zsh/vendor-completions/_ten",
        "usr/share/fish/vendor_completions.d/ten.fish",
        "usr/share/man/man1/ten.1.gz",
        "usr/share/man/man5/tenement.toml.5.gz",
    ):
        assert (box.root / path).exists(), path
