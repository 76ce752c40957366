import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenement.config.places import dotted, key_lines

# Machines are busy at times: how long an example takes says nothing.
unhurried = settings(deadline=None)

TEXT = '''# [comment]
a = 1
[service.notes]  # b = 2
command = """
[not.a.table]
x = 1
"""
args = [
  "x = 1", # ] not the end
  '[y]',
  ["nested"],
]
env.A = "1"
env . "B C" = 'it''s'
raw = \'\'\'
[also.not]
\'\'\'
inline = { k = "v]", l = [1, 2] }
"quoted key" = 3
'[odd]' = 4

[[list]]
z = 1
[ service . "my app" ]
y = "\\\\"
w = 1
'''.replace("'it''s'", "'its'")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("a", 2),
        ("service", 3),
        ("service notes", 3),
        ("service notes command", 4),
        ("service notes args", 8),
        ("service notes env", 13),
        ("service notes env A", 13),
        ("service notes raw", 15),
        ("service notes inline", 18),
        ("list", 22),
        ("list z", 23),
    ],
)
def test_keys_are_found_on_their_lines(path: str, line: int) -> None:
    assert key_lines(TEXT)[tuple(path.split())] == line


def test_quoted_keys_are_found_on_their_lines() -> None:
    lines = key_lines(TEXT)
    assert lines["service", "notes", "env", "B C"] == 14
    assert lines["service", "notes", "quoted key"] == 19
    assert lines["service", "notes", "[odd]"] == 20
    assert lines["service", "my app"] == 24
    assert lines["service", "my app", "w"] == 26


def test_nothing_inside_a_value_is_a_key() -> None:
    assert not {("not",), ("also",), ("service", "notes", "x")} & set(key_lines(TEXT))


values = st.sampled_from(
    [
        "1",
        '"a"',
        "'#'",
        '"""\n[x]\ny = 1\n"""',
        "[\n1, # ]\n2\n]",
        "{ a = 1 }",
        "'''\n'' \"\n'''",
        '"\\""',
        "2020-01-01",
    ]
)
keys = st.sampled_from(["a", "b-c", "1", '"q k"', "'l'", "_"])


@unhurried
@given(st.lists(st.tuples(keys, keys, values), min_size=1, unique_by=lambda row: row[0].strip("\"'")))
def test_every_key_of_a_valid_text_is_found(rows: list[tuple[str, str, str]]) -> None:
    text, expected = "", {}
    for table, key, value in rows:
        text += f"\n[{table}]\n"
        expected[table.strip("\"'"), key.strip("\"'")] = text.count("\n") + 1
        text += f"{key} = {value}\n"
    found = key_lines(text)
    assert {path: found[path] for path in expected} == expected
    assert set(_paths(tomllib.loads(text))) >= {path for path in found if len(path) == 2}


def _paths(table: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for outer, inner in table.items():
        for key in inner:
            yield (outer, key)


@unhurried
@given(st.text(max_size=200))
def test_no_text_makes_the_scan_fail_or_hang(text: str) -> None:
    assert all(line >= 1 for line in key_lines(text).values())


def test_a_path_is_written_as_in_toml() -> None:
    assert dotted(("routing", "hosts", "www.example.com")) == 'routing.hosts."www.example.com"'
