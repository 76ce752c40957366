"""`ten logs` against journalctl, by root and by members of group tenement."""

import itertools
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any

import pytest

from .conftest import Box
from .web import listed, token

# Prints what is posted to it: /out and /err as it is, /native as a message of journald's own protocol.
APP = r"""#!/usr/bin/python3 -S
import os, socket, threading

server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=512)
native = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
native.connect("/run/systemd/journal/socket")


def write(path, body):
    if path == b"/native":
        native.send(body)
        return
    while body:
        body = body[os.write(2 if path == b"/err" else 1, body) :]


def serve(connection):
    with connection, connection.makefile("rb") as stream:
        while line := stream.readline().strip():
            length = 0
            while field := stream.readline().strip():
                name, _, value = field.lower().partition(b":")
                length = int(value) if name == b"content-length" else length
            write(line.split()[1], stream.read(length))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""

TOML = """
[service.chat]
workdir = "/srv/chat"
command = "./app"
idle_timeout = 0
max_body_mb = 64
[service.quick]
command = ["/bin/sh", "-c", "for i in 1 2 3 4 5; do echo out {id} $i; echo err {id} $i >&2; done; exit 3"]
restart = "no"
"""

OPERATOR = "logs-operator"
STRANGER = "logs-stranger"


@pytest.fixture(scope="module", autouse=True)
def people(box: Box) -> Iterator[None]:
    """A member of group tenement, and a user of no group; the app."""
    box.run(f"useradd -G tenement {OPERATOR}; useradd {STRANGER}")
    box.run("install -D -m 755 /dev/stdin /srv/chat/app", input=APP)
    box.write_config("chat", TOML, keep=True)
    yield
    box.run("names=$(ten ps -q | grep -E '^(chat|quick):'); [ -z \"$names\" ] || ten rm --purge -y $names")
    box.run("rm /etc/tenement/tenement.d/chat.toml; ten reload")
    box.run(f"userdel -r {OPERATOR}; userdel -r {STRANGER}", check=False)


def say(box: Box, tenant: str, body: bytes | str, path: str = "/out") -> None:
    service, id_ = tenant.split(":")
    content = body.encode() if isinstance(body, str) else body
    assert box.http(f"{id_}.{service}.localhost", path, "POST", body=content).status == 200


def settled(box: Box, tenant: str, mark: str) -> None:
    """Wait until journald has taken all that the tenant printed."""
    say(box, tenant, f"{mark}\n")
    box.wait_for(lambda: mark in box.run(f"ten logs {tenant} -o cat").stdout, 20)


@pytest.fixture(scope="module")
def alice(box: Box) -> str:
    box.run("ten spawn chat:alice chat:bob")
    say(box, "chat:alice", "hello\n<3>an error\n  indented\n\ttab\nGET /one 200\nÄrger mit Ümlaut\n")
    say(box, "chat:alice", b"\xff\xfe no text\nnul \0 inside\ntrailing\r\n\x1b[31mred\x1b[0m\n\xf0\x9f\x98\n")
    say(box, "chat:alice", "long " + "x" * 3000 + "\nvery long " + "y" * 200_000 + "\n")
    say(box, "chat:bob", "secret of bob\n")
    box.run("ten restart chat:alice")
    settled(box, "chat:alice", "end of alice")
    settled(box, "chat:bob", "end of bob")
    return "chat:alice"


OPTIONS = [
    "",
    "-n 3",
    "-n3 -r",
    "-n",
    "-r",
    "-S -1h",
    "--since=today",
    "-U now",
    # Not to the second: the two are asked one after the other.
    "-S -1h -U +1m",
    "-U -1h",
    "-g GET",
    "-g 'one|two' -n 1",
    "-p info",
    "-p err",
    "-p 3..4",
    "-b",
    "-b 0",
    "-b all",
    "--utc",
    "--no-pager",
    *(f"-o {form}" for form in ("short", "short-iso", "short-precise", "cat", "verbose", "export")),
    "-g nothing-has-this",
    "-S nonsense",
    "-o nonsense",
]


# Prints the options with which the two differ in output, errors or status. One run for all hundred processes.
COMPARE = """
while read -r options; do
    eval "journalctl -u tenement-chat@alice.service $options" >/tmp/a 2>&1 </dev/null; theirs=$?
    eval "$TEN logs chat:alice $options" >/tmp/b 2>&1 </dev/null; ours=$?
    cmp -s /tmp/a /tmp/b && [ $theirs = $ours ] || {
        echo "$options: $theirs $ours"
        diff /tmp/a /tmp/b | head -5
    }
done
"""


@pytest.mark.parametrize(
    ("ten", "options"), [("ten", OPTIONS), (f"runuser -u {OPERATOR} -- ten", OPTIONS[::3])]
)
def test_output_is_journalctls_byte_for_byte_with_every_option(
    box: Box, alice: str, ten: str, options: list[str]
) -> None:
    lines = "".join(f"{each}\n" for each in options)
    assert box.run(f"TEN='{ten}'\n{COMPARE}", input=lines, timeout_s=120).stdout == ""


def test_json_is_journalctls_but_for_the_order_of_fields_which_is_random_there(box: Box, alice: str) -> None:
    for form in ("json", "json-pretty"):
        theirs = _documents(box.run(f"journalctl -u tenement-chat@alice.service -o {form}").stdout)
        assert _documents(box.run(f"ten logs {alice} -o {form}", user=OPERATOR).stdout) == theirs != []


def _documents(text: str) -> list[Any]:
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        document, at = decoder.raw_decode(text, at)
        found.append(document)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


def test_a_service_and_several_tenants_are_what_journalctl_has_for_their_units(box: Box, alice: str) -> None:
    both = "journalctl -u tenement-chat@alice.service -u tenement-chat@bob.service -o export"
    assert box.run(f"ten logs {alice} chat:bob -o export").stdout == box.run(both).stdout
    of_service = "journalctl -u 'tenement-chat@*.service' -o cat -b"
    assert box.run("ten logs chat -o cat -b").stdout == box.run(of_service).stdout
    everything = box.run("ten logs -o cat", user=OPERATOR).stdout
    assert "secret of bob" in everything
    assert box.run("journalctl TENANT=chat:bob -o cat").stdout.splitlines()[-1] == "end of bob"


def test_nobody_else_reads_logs_and_a_crafted_name_reads_no_others(box: Box, alice: str) -> None:
    refused = box.run(f"ten logs {alice}", user=STRANGER, check=False)
    assert (refused.returncode, refused.stdout) == (4, "")
    for crafted in (
        "'chat:*'",
        "'chat:ali?e'",
        "chat:alice --unit=dbus.service",
        "-- --unit=dbus.service",
        "chat:alice -u dbus.service",
        "chat:alice --file=/etc/shadow",
        "chat:alice _UID=0",
        "chat:alice +",
        "'chat:alice.service -u dbus'",
        "../chat:alice",
    ):
        refused = box.run(f"ten logs {crafted}", user=OPERATOR, check=False)
        assert refused.returncode == 2, crafted
        assert refused.stdout == ""
    # The socket does not believe its client either.
    forged = (
        "import json,socket,sys;s=socket.socket(socket.AF_UNIX);s.connect('/run/tenement-log-reader.sock');"
        "socket.send_fds(s,[json.dumps({'arguments':sys.argv[1:],'environment':{'SYSTEMD_PAGER':'id'}})"
        ".encode()+b'\\n'],[1,2]);sys.exit(s.recv(1)[0])"
    )
    asked = box.run(["python3", "-c", forged, "--unit=dbus.service"], user=OPERATOR, check=False)
    assert (asked.returncode, asked.stdout) == (2, "")
    asked = box.run(["python3", "-c", forged, "chat:bob", "-o", "cat"], user=OPERATOR)
    assert "secret of bob" in asked.stdout


def test_a_message_that_looks_like_the_journals_own_objects_is_found_only_as_a_message(
    box: Box, alice: str
) -> None:
    # A whole DATA object, as it lies in a file, that claims to be bob's unit with entries of others.
    def forged(payload: bytes) -> bytes:
        head = bytes([1, 0, 0, 0, 0, 0, 0, 0]) + (72 + len(payload)).to_bytes(8, "little")
        return (
            head
            + b"\0" * 24
            + (4096).to_bytes(8, "little") * 2
            + (9).to_bytes(8, "little")
            + b"\0" * 8
            + payload
        )

    # Few entries are read one by one; this is about how many are searched.
    say(box, alice, "".join(f"line {number}\n" for number in range(2100)))
    for pad in range(8):
        body = b"." * pad + forged(b"_SYSTEMD_UNIT=tenement-chat@bob.service") + forged(b"MESSAGE=forgery-1")
        size = len(body).to_bytes(8, "little")
        say(box, alice, b"MESSAGE\n" + size + body + b"\nPRIORITY=6\nTENANT=chat:bob\n", "/native")
    settled(box, alice, "forged enough")
    assert "forgery" not in box.run("ten logs chat:bob", check=False).stdout
    assert "forgery" not in box.run("ten logs --search forgery chat:bob", check=False).stdout
    found = box.run("ten logs --search forgery --json").stdout.splitlines()
    assert {json.loads(line)["tenant"] for line in found} == {alice}
    assert len(found) == 8
    assert "secret" not in box.run(f"ten logs --search secret {alice}", check=False).stdout


def test_search_finds_what_grep_finds_newest_first(box: Box, alice: str) -> None:
    forms = itertools.cycle(("short", "short-iso", "short-precise", "cat"))
    for text, pattern in (
        ("hello", "(?i)hello"),
        ("get 200", "(?i)GET.*200"),
        ('"an ERROR"', "(?i)an error"),
        ("ärger ÜMLAUT", "Ärger.*Ümlaut"),
        ("xxxxxxxxxxxxxxxxx", "x{17}"),
        ("red", "(?i)red"),
    ):
        form = next(forms)
        theirs = box.run(
            ["journalctl", "-r", "-u", "tenement-chat@alice.service", "-g", pattern, "-o", form]
        ).stdout
        ours = box.run(["ten", "logs", alice, "--search", text, "-o", form], user=OPERATOR).stdout
        assert ours == theirs != "", (text, form)
    nothing = box.run(["ten", "logs", alice, "--search", "no such words here"], check=False)
    assert (nothing.returncode, nothing.stdout) == (1, "-- No entries --\n")
    assert len(box.run(["ten", "logs", "--search", "e", "-n", "2"]).stdout.splitlines()) == 2
    first = json.loads(box.run(["ten", "logs", alice, "--search", '"an error"', "--json"]).stdout)
    assert (first["priority"], first["tenant"]) == (3, alice)
    assert re.fullmatch(r"[0-9a-f]{32}", first["invocation"])
    assert re.fullmatch(r"[0-9a-f]{32}", first["boot"])


def test_every_line_of_odd_bytes_is_valid_json(box: Box, alice: str) -> None:
    for options in (f"{alice} --json", f"{alice} --json --search o", f"{alice} --json --search y"):
        lines = box.run(f"ten logs {options}").stdout.splitlines()
        assert lines
        assert all(isinstance(json.loads(line)["message"], str) for line in lines)
    messages = [
        json.loads(line)["message"] for line in box.run(f"ten logs {alice} --json").stdout.splitlines()
    ]
    assert "\ufffd\ufffd no text" in messages
    # A NUL ends a line for journald.
    assert {"nul", " inside", "trailing"} <= {message.rstrip("\r") for message in messages}
    assert sum(text.count("y") for text in messages) >= 200_000


def test_an_app_that_prints_and_ends_at_once_loses_no_line(box: Box) -> None:
    ids, runs = "abcde", 20
    names = " ".join(f"quick:{id_}" for id_ in ids)
    box.run(f"ten spawn --no-start {names}")
    box.run(f"for i in $(seq {runs}); do ten restart {names}; done", check=False, timeout_s=120)

    def printed(lines: Iterable[str]) -> list[str]:
        return [line for line in lines if line.startswith(("out ", "err "))]

    def shown(command: str) -> list[str]:
        return printed(box.run(command).stdout.splitlines())

    box.wait_for(lambda: len(shown("ten logs quick -o cat")) >= len(ids) * runs * 10, 20)
    with token(box) as made:
        for id_ in ids:
            entries = listed(box, made, f"/api/logs?service=quick&id={id_}&limit=5000")
            for found in (
                shown(f"ten logs quick:{id_} -o cat"),
                shown(f"journalctl -u tenement-quick@{id_} -o cat"),
                printed(entry["message"] for entry in entries),
            ):
                for stream in ("out", "err"):
                    of_stream = [line for line in found if line.startswith(stream)]
                    assert of_stream == [f"{stream} {id_} {n}" for n in range(1, 6)] * runs
                assert len(found) == runs * 10


def test_lines_of_a_process_that_was_gone_before_journald_looked_are_its_services_too(box: Box) -> None:
    box.run("ten spawn --no-start quick:gone")
    try:
        box.run("systemctl kill -s STOP systemd-journald; timeout 10 ten restart quick:gone", check=False)
    finally:
        box.run("systemctl kill -s CONT systemd-journald")
    box.wait_for(lambda: "err gone 5" in box.run("ten logs quick:gone -o cat", check=False).stdout, 20)
    assert "_SYSTEMD_SLICE" not in box.run("journalctl -u tenement-quick@gone -o export -t quick").stdout
    for command in ("ten logs quick -o cat", "ten logs -o cat"):
        lines = box.run(command).stdout.splitlines()
        for stream in ("out", "err"):
            printed = [line for line in lines if line.startswith(f"{stream} gone ")]
            assert printed == [f"{stream} gone {n}" for n in range(1, 6)], command


@pytest.mark.parametrize(("user", "options"), [(None, "-o cat"), (OPERATOR, "--json")])
def test_a_follower_sees_every_line_once_over_rotations(
    box: Box, alice: str, user: str | None, options: str
) -> None:
    seen: list[str] = []

    def read(lines: IO[str]) -> None:
        seen.extend(json.loads(line)["message"] if "json" in options else line.rstrip("\n") for line in lines)

    def until_shown(number: int) -> None:
        box.wait_for(lambda: f"{options} line {number}" in seen, 10)

    def greeted() -> bool:
        say(box, alice, "are you there\n")
        return bool(seen)

    cgroup = box.cgroup / "follower"
    command = box.command(f"exec ten logs {alice} -f -n 0 {options}", user=user, cgroup=cgroup)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        reader = threading.Thread(target=read, args=(follower.stdout,), daemon=True)
        reader.start()
        try:
            box.wait_for(greeted, 20)
            for number in range(30):
                say(box, alice, f"{options} line {number}\n")
                if number in (5, 15, 25):
                    until_shown(number)
                    box.run("journalctl --rotate")
            # What is vacuumed before journalctl has read it would be gone for it, too.
            until_shown(29)
            box.run("journalctl --vacuum-files=1 2>/dev/null")
            say(box, alice, f"{options} line 30\n")
            until_shown(30)
        finally:
            # All of it: what nsenter has started would hold the pipe open.
            (cgroup / "cgroup.kill").write_text("1")
            reader.join(10)
    assert [line for line in seen if " line " in line] == [f"{options} line {number}" for number in range(31)]


def test_the_log_reader_ends_with_its_client(box: Box, alice: str) -> None:
    with subprocess.Popen(
        box.command(f"exec ten logs {alice} -f", user=OPERATOR), stdout=subprocess.PIPE
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline()
        follower.terminate()
    box.wait_for(lambda: box.run("pgrep -x journalctl", check=False).returncode == 1, 10)


def test_a_tenant_that_floods_its_log_is_limited_alone(box: Box, alice: str) -> None:
    began = time.strftime("%F %T")
    say(box, "chat:bob", "flood " + "\nflood ".join(map(str, range(40_000))) + "\n")
    for number in range(20):
        say(box, alice, f"calm {number}\n")
    settled(box, alice, "calm at the end")
    lines = box.run(f"ten logs {alice} -o cat -S '{began}'").stdout.splitlines()
    assert [line for line in lines if line.startswith("calm ")][:20] == [f"calm {n}" for n in range(20)]
    suppressed = f"journalctl -u systemd-journald -S '{began}' -g 'Suppressed .* tenement-chat@bob' --quiet"
    kept = int(box.run(f"ten logs chat:bob -o cat -S '{began}' | grep -c ^flood").stdout)
    assert kept < 40_000
    assert box.run(suppressed, check=False).returncode in (0, 1)
