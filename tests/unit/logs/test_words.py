"""What a search looks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenement.logs.words import NothingToFind, Words


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("login failed", ("login", "failed")),
        ('"card declined" eu', ("card declined", "eu")),
        ('"card  declined', ("card declined",)),
        ("a a A", ("a", "A")),
        ("status=500", ("status=500",)),
    ],
)
def test_words_and_phrases(text: str, parts: tuple[str, ...]) -> None:
    assert Words.parse(text).parts == parts


@pytest.mark.parametrize("text", ["", "  ", '""', '" "'])
def test_nothing_is_not_searched_for(text: str) -> None:
    with pytest.raises(NothingToFind):
        Words.parse(text)


@pytest.mark.parametrize(
    ("text", "message", "found"),
    [
        ("LOGIN failed", b"Failed: login of bob", True),
        ("login failed", b"login worked", False),
        ('"login failed"', b"login  failed", False),
        ('"login failed"', b"the LOGIN FAILED", True),
        ("ärger", "ÄRGER".encode(), True),
        ("straße", b"STRASSE", True),
        ("x", b"\xff\xfex", True),
    ],
)
def test_matches_ignore_case_and_odd_bytes(text: str, message: bytes, found: bool) -> None:
    assert Words.parse(text).match(message) is found


@given(st.text(min_size=1, max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_whatever_matches_holds_the_needle(text: str, before: str, after: str) -> None:
    try:
        words = Words.parse(text)
    except NothingToFind:
        return
    message = (before + " ".join(words.parts) + after).encode("utf-8", "replace")
    if words.match(message):
        assert words.needle in message.lower()
