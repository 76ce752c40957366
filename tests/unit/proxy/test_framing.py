from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenement.proxy.framing import CHUNKED, UNTIL_CLOSE, BadFraming, Chunked, Framing, Length, of_body


def feed(framing: Framing, data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """All that passed and what followed, the data being cut in pieces."""
    passed = rest = b""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, stop in pairwise(edges):
        if framing.done:
            rest += data[start:stop]
        else:
            out, rest = framing.feed(data[start:stop])
            passed += out
    return passed, rest


chunks = st.lists(st.binary(min_size=1, max_size=40), max_size=5)
extensions = st.sampled_from([b"", b";a", b' ;a="b;c"', b";a=\xff"])
trailers = st.sampled_from([b"", b"X-Sum: 1\r\n", b"A:\r\nB: c\r\n"])
cuts = st.lists(st.integers(0, 10_000), max_size=8)


@given(chunks, extensions, trailers, cuts, st.binary(max_size=20))
def test_chunks_pass_verbatim_however_they_are_cut(
    payload: list[bytes], extension: bytes, trailer: bytes, at: list[int], behind: bytes
):
    body = b"".join(b"%X%b\r\n%b\r\n" % (len(each), extension, each) for each in payload)
    body += b"0%b\r\n%b\r\n" % (extension, trailer)
    framing = Chunked()
    assert feed(framing, body + behind, at) == (body, behind)
    assert framing.done and framing.complete_at_end()
    assert framing.payload_bytes == sum(map(len, payload))
    decoded = Chunked(decode=True)
    assert feed(decoded, body + behind, at) == (b"".join(payload), behind)


@given(st.integers(0, 50), cuts, st.binary(max_size=80))
def test_a_length_splits_where_it_says(length: int, at: list[int], data: bytes):
    framing = Length(length)
    passed, rest = feed(framing, data, at)
    assert (passed, rest) == (data[:length], data[length:]) or (length == 0 and passed == b"")
    assert framing.done is (len(data) >= length)


@given(st.binary(max_size=60), cuts)
@settings(max_examples=300)
def test_the_verdict_on_chunks_does_not_depend_on_the_cuts(data: bytes, at: list[int]):
    def verdict(where: list[int]) -> object:
        framing = Chunked()
        try:
            passed, rest = feed(framing, data, where)
        except BadFraming:
            return "bad"
        return (passed, rest, framing.done) if framing.done else "open"

    assert verdict(at) == verdict([]) or "open" in (verdict(at), verdict([]))


def test_the_beginning_of_a_line_is_held_back_until_it_is_complete():
    framing = Chunked()
    assert framing.feed(b"5;a") == (b"", b"")
    assert framing.feed(b"=b\r\nhe") == (b"5;a=b\r\nhe", b"")
    with pytest.raises(BadFraming):
        framing.feed(b"lloX")


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_fault_is_found_wherever_the_pieces_end(cut: int):
    framing = Chunked()
    with pytest.raises(BadFraming):
        for piece in (b"5\r\nhelloX\n0\r\n\r\n"[:cut], b"5\r\nhelloX\n0\r\n\r\n"[cut:]):
            framing.feed(piece)


def test_kinds_of_bodies():
    assert of_body(0).done
    assert isinstance(of_body(CHUNKED), Chunked)
    until_close = of_body(UNTIL_CLOSE)
    assert until_close.feed(b"x") == (b"x", b"")
    assert until_close.complete_at_end() and not until_close.done
