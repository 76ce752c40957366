"""Tokens: what is kept of them, when they are good, and what ends with them."""

import re

import pytest

from tenement.errors import InvalidName, NotFound, Unauthorized
from tenement.names import TenantName
from tenement.registry import Registry
from tenement.tokens import SESSION_S, Scope, TokenStore

ALICE = TenantName("notes", "alice")


@pytest.fixture
def tokens() -> TokenStore:
    return Registry.open(":memory:").tokens


def test_a_token_is_good_until_it_expires(tokens: TokenStore) -> None:
    made, text = tokens.create(Scope.ADMIN, None, "laptop", 60.0, now=1000.0)
    assert tokens.verify(text, 1059.9) == made
    with pytest.raises(Unauthorized):
        tokens.verify(text, 1060.0)


def test_the_text_of_a_token_is_not_kept(tokens: TokenStore) -> None:
    _, text = tokens.create(Scope.ADMIN, None, "", None, now=0.0)
    kept = [bytes(str(value), "utf-8") for row in tokens._db.execute("SELECT * FROM token") for value in row]
    assert len(text) > 40
    assert not any(text[-32:].encode() in value for value in kept)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text.upper(),
        lambda text: text.replace("ten_", "tan_"),
        lambda text: f" {text}",
        lambda text: text.rpartition("_")[0] + "_",
        lambda text: "ten__",
        lambda text: "\udcff" + text,
        lambda text: text * 100,
    ],
)
def test_anything_but_the_whole_text_is_refused_with_the_same_words(tokens: TokenStore, change) -> None:  # type: ignore[no-untyped-def]
    _, text = tokens.create(Scope.ADMIN, None, "", None, now=0.0)
    with pytest.raises(Unauthorized, match=re.escape("missing, unknown, expired or revoked")):
        tokens.verify(change(text), 0.0)


def test_revoking_a_token_ends_its_sessions_and_no_others(tokens: TokenStore) -> None:
    made, _ = tokens.create(Scope.ADMIN, None, "", None, now=0.0)
    other, other_text = tokens.create(Scope.ADMIN, None, "", None, now=0.0)
    _, session = tokens.create_session(made, 0.0)
    _, kept = tokens.create_session(other, 0.0)
    tokens.revoke(made.id)
    with pytest.raises(Unauthorized):
        tokens.verify(session, 0.0)
    assert tokens.verify(kept, 0.0).parent == other.id
    assert tokens.verify(other_text, 0.0) == other


def test_a_session_ends_by_itself_and_never_after_its_token(tokens: TokenStore) -> None:
    long, _ = tokens.create(Scope.ADMIN, None, "", None, now=0.0)
    short, _ = tokens.create(Scope.ADMIN, None, "", 60.0, now=0.0)
    assert tokens.create_session(long, 0.0)[0].expires_at == SESSION_S
    assert tokens.create_session(short, 0.0)[0].expires_at == 60.0


def test_sessions_are_not_listed_and_the_oldest_of_very_many_end(tokens: TokenStore) -> None:
    made, _ = tokens.create(Scope.ADMIN, None, "", None, now=0.0)
    texts = [tokens.create_session(made, float(now))[1] for now in range(100)]
    assert tokens.all() == [made]
    with pytest.raises(Unauthorized):
        tokens.verify(texts[0], 100.0)
    assert tokens.verify(texts[-1], 100.0).parent == made.id


def test_a_session_of_a_session_belongs_to_the_token(tokens: TokenStore) -> None:
    made, _ = tokens.create(Scope.ADMIN, None, "", None, now=0.0)
    session, _ = tokens.create_session(made, 0.0)
    assert tokens.create_session(session, 0.0)[0].parent == made.id


def test_a_tenant_that_is_made_again_does_not_inherit_tokens(tokens: TokenStore) -> None:
    _, text = tokens.create(Scope.TENANT, ALICE, "", None, now=0.0)
    assert tokens.verify(text, 0.0).tenant == ALICE
    tokens.forget_tenant(ALICE)
    with pytest.raises(Unauthorized):
        tokens.verify(text, 0.0)


def test_names_and_lifetimes_have_limits(tokens: TokenStore) -> None:
    unseen = ("a\nb", "a\n", "\x1b[2J", "\u200b", "\u202eb")
    names = [(name, None) for name in ("x" * 65, *unseen)]
    for name, expires_s in (*names, ("", -1.0), ("", 0.0), ("", 1e12)):
        with pytest.raises(InvalidName):
            tokens.create(Scope.ADMIN, None, name, expires_s, now=0.0)
    with pytest.raises(NotFound):
        tokens.revoke("nothere")
