import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenement.proxy.hosts import BadHost, fold

FOLDED = {
    b"alice.notes.example.com": "alice.notes.example.com",
    b"alice.notes.example.com:8080": "alice.notes.example.com",
    b"alice.notes.example.com:": "alice.notes.example.com",
    b"ALICE.Notes.Example.COM": "alice.notes.example.com",
    b"alice.notes.example.com.": "alice.notes.example.com",
    b"alice.notes.example.com.:80": "alice.notes.example.com",
    b" \talice.notes.example.com ": "alice.notes.example.com",
    "bücher.example".encode(): "xn--bcher-kva.example",
    "BÜCHER.example:80".encode(): "xn--bcher-kva.example",
    b"xn--bcher-kva.example": "xn--bcher-kva.example",
    b"[::1]:80": "[::1]",
    b"[FE80::1]": "[fe80::1]",
    b"127.0.0.1": "127.0.0.1",
    b"_service.example": "_service.example",
    b"a" * 63 + b".example": "a" * 63 + ".example",
}


@pytest.mark.parametrize("field", FOLDED)
def test_a_host_has_one_folded_form(field: bytes):
    assert fold(field) == FOLDED[field]


@pytest.mark.parametrize(
    "field",
    [
        b"",
        b" ",
        b".",
        b"a..b",
        b".a",
        b"a..",
        b"-a.example",
        b"a-.example",
        b"a b",
        b"a/b",
        b"a@b",
        b"a,b",
        b"a:b",
        b"a:80:80",
        b"a:123456",
        b"::1",
        b"[::1",
        b"[::1]x",
        b"%61.example",
        b"\xff\xfe",
        b"a" * 64 + b".example",
        b".".join([b"a" * 60] * 5),
        "b\u00fccher..example".encode(),
        "\u3002".encode(),
    ],
)
def test_a_malformed_host_is_refused(field: bytes):
    with pytest.raises(BadHost):
        fold(field)


@given(st.binary(max_size=80))
def test_folding_ends_in_a_name_or_a_refusal_and_is_stable(field: bytes):
    try:
        name = fold(field)
    except BadHost:
        return
    assert name.isascii() and name == name.lower()
    assert fold(name.encode()) == name
