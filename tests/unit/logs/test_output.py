"""How found lines are written."""

import json

import pytest

from tenement.logs.journal_file import Entry
from tenement.logs.output import record, text_of, writer


def entry(message: bytes, **fields: bytes) -> Entry:
    own = {
        "MESSAGE": message,
        "_SYSTEMD_UNIT": b"tenement-notes@alice.service",
        "_HOSTNAME": b"box",
        "SYSLOG_IDENTIFIER": b"notes",
        "_PID": b"7",
    } | fields
    return Entry(1_795_579_883_696_819, 5, 9, "ab", "cd", 255, {key: [value] for key, value in own.items()})


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("short", "Nov 25 04:11:23 box notes[7]: hello\n"),
        ("short-precise", "Nov 25 04:11:23.696819 box notes[7]: hello\n"),
        ("short-iso", "2026-11-25T04:11:23+00:00 box notes[7]: hello\n"),
        ("cat", "hello\n"),
    ],
)
def test_lines_look_like_journalctls(form: str, line: str) -> None:
    assert writer(form, utc=True)(entry(b"hello")).decode() == line


def test_lines_of_a_message_are_indented_and_colours_and_odd_bytes_left_out() -> None:
    write = writer("short", utc=True)
    assert write(entry(b"one\ntwo")).decode() == (
        "Nov 25 04:11:23 box notes[7]: one\n                              two\n"
    )
    assert write(entry(b"\x1b[31mred\x1b[0m \n")).decode().endswith(": red\n")
    assert write(entry(b"\xff" * 2000)).decode().endswith(": [1.9K blob data]\n")
    assert write(entry(b"bell \x07")).decode().endswith(": [6B blob data]\n")


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="short, short-precise, short-iso"):
        writer("verbose", utc=False)


def test_a_record_is_valid_json_whatever_the_bytes() -> None:
    found = json.loads(writer("record", utc=False)(entry(b"\xff\xfe \x00", PRIORITY=b"3")))
    assert found == {
        "time": "2026-11-25T04:11:23.696819+00:00",
        "tenant": "notes:alice",
        "priority": 3,
        "message": "\ufffd\ufffd \0",
        "pid": 7,
        "invocation": None,
        "boot": "cd",
        "cursor": "s=ab;i=9;b=cd;m=5;t=66112052232b3;x=ff",
    }


def test_a_record_does_not_believe_what_a_line_says_of_its_tenant() -> None:
    assert record({"TENANT": "notes:bob", "_SYSTEMD_UNIT": "tenement-notes@alice.service"})["tenant"] == (
        "notes:alice"
    )
    assert record({"TENANT": "notes:bob", "_SYSTEMD_UNIT": "evil.service"})["tenant"] is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        ("x", "x"),
        ([104, 105, 255], "hi\ufffd"),
        (["first", "second"], "first"),
        ([[104], "x"], "h"),
        ("\ud83d", "?"),
        (5, "5"),
    ],
)
def test_values_of_journalctls_json_become_text(value: object, text: str | None) -> None:
    assert text_of(value) == text
