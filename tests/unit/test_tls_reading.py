from pathlib import Path

import pytest

from tenement.errors import InvalidConfig
from tenement.tls.reading import read, split
from tenement.tls.store import Store, lineage_server, read_lineage
from tests.unit.certificates import NOW, Made

NOW_S = NOW.timestamp()
DAY_S = 86400.0


def test_a_good_certificate_tells_its_facts():
    made = Made("a.test", "*.B.test")
    checked, text = read(made.chain, made.key_pem, "here", now=NOW_S)
    assert checked.names == ("a.test", "*.b.test")
    assert checked.issuer == "Test Authority"
    assert (checked.issued_at, checked.expires_at) == (NOW_S, NOW_S + 90 * DAY_S)
    assert split(text) == (made.chain, made.key_pem)


@pytest.mark.parametrize(("days", "left"), [(90, 30), (6, 3)])
def test_renewal_is_certbots(days: int, left: int):
    made = Made("a.test", days=days)
    checked = read(made.chain, made.key_pem, "here", now=NOW_S).facts
    assert checked.expires_at - checked.renewed_at == left * DAY_S


def test_what_is_wrong_is_said():
    made, other = Made("a.test"), Made("a.test")
    for chain, key, now, said in (
        (made.chain, other.key_pem, NOW_S, "here: the private key is not the certificate's"),
        (made.chain[:500], made.key_pem, NOW_S, "here: the chain is not whole PEM"),
        ("", made.key_pem, NOW_S, "here: the chain is not whole PEM"),
        (made.chain, made.key_pem[:90], NOW_S, "here: the private key cannot be read"),
        (made.chain, "", NOW_S, "here: the private key cannot be read"),
        (
            made.chain,
            made.key_pem,
            NOW_S + 91 * DAY_S,
            "here: the certificate expired at 2026-08-30",
        ),
        (made.root_pem + made.leaf_pem, made.key_pem, NOW_S, "here: the private key is not"),
        (made.leaf_pem + made.leaf_pem, made.key_pem, NOW_S, "here: the chain is out of order"),
        (made.chain[:-40], made.key_pem, NOW_S, "here: the chain is not whole PEM"),
    ):
        with pytest.raises(InvalidConfig) as caught:
            read(chain, key, "here", now=now)
        assert str(caught.value).startswith(said)


def test_a_certificate_without_names_is_refused():
    made = Made()
    with pytest.raises(InvalidConfig, match="has no DNS name"):
        read(made.chain, made.key_pem, "here", now=NOW_S)


def test_the_store_replaces_in_one_step_and_loads_what_has_expired(tmp_path: Path):
    store = Store(0, tmp_path)
    for made in (Made("a.test"), Made("a.test", days=1)):
        store.put("tenement-a.test", read(made.chain, made.key_pem, "here", now=NOW_S))
    store.path("broken").write_text("half")
    plain = store.path("plain")
    plain.write_text("\n".join(store.path("tenement-a.test").read_text().splitlines()[1:]))
    found = dict(store.load())
    kept = found["tenement-a.test"]
    assert not isinstance(kept, InvalidConfig)
    assert kept.expires_at == NOW_S + DAY_S
    assert found["plain"] == kept
    plain.unlink()
    assert "not whole PEM" in str(found["broken"])
    assert store.path("tenement-a.test").stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.pem", "tenement-a.test.pem"]
    store.remove("broken")
    store.remove("broken")


def test_lineages_of_certbot_are_read(tmp_path: Path):
    with pytest.raises(InvalidConfig, match="No such file"):
        read_lineage("x", tmp_path)
    (tmp_path / "x.conf").write_text("version = 4.0.0\n[renewalparams]\nserver = https://ca.test/dir\n")
    assert lineage_server("x", tmp_path) == "https://ca.test/dir"
    assert lineage_server("y", tmp_path) is None
