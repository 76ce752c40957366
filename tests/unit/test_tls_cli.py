from pathlib import Path

import pytest

from tenement.cli.domain import check_leads_here
from tenement.cli.text import Screen
from tenement.cli.tls import credential_problems, listing
from tenement.errors import Conflict

ADDRESSES = {
    "here.test": {"203.0.113.1"},
    "half.test": {"203.0.113.1", "2001:db8::9"},
    "there.test": {"198.51.100.7"},
    "behind.test": {"198.51.100.1"},
    "alice.notes.example.com": {"198.51.100.1"},
}


def look(host: str) -> set[str]:
    return ADDRESSES.get(host, set())


@pytest.mark.parametrize("domain", ["here.test", "behind.test"])
def test_a_domain_leads_here_by_our_address_or_by_that_of_the_tenant(domain: str):
    check_leads_here(domain, ["alice.notes.example.com"], look, {"203.0.113.1"})


@pytest.mark.parametrize(
    ("domain", "said"),
    [
        ("none.test", "has no address yet"),
        ("there.test", "leads to 198.51.100.7, which is not this server"),
        ("half.test", "leads to 2001:db8::9"),
    ],
)
def test_a_domain_that_leads_elsewhere_is_refused(domain: str, said: str):
    with pytest.raises(Conflict, match=said):
        check_leads_here(domain, ["alice.notes.example.com"], look, {"203.0.113.1"})


def test_credentials_must_be_closed_to_others(tmp_path: Path):
    file = tmp_path / "dns.ini"
    assert "No such file" in str(credential_problems(file)[0])
    file.write_text("secret")
    file.chmod(0o640)
    assert str(credential_problems(file)[0]).endswith(f"Run: chmod 0600 {file}")
    file.chmod(0o600)
    assert credential_problems(file) == []
    assert "is not a file" in str(credential_problems(tmp_path)[0])


def test_status_shows_each_name_and_what_it_waits_for():
    now = 1_700_000_000.0
    valid = {
        "name": "a.test",
        "state": "valid",
        "expires_at": now + 5 * 86400,
        "renewal_at": now + 86400,
        "issuer": "CA",
        "error": None,
    }
    failed = {"name": "b.test", "state": "failed", "error": "no\naddress", "retry_at": now + 60}
    header, first, second = listing([valid, failed], Screen(), now)
    assert header.split() == ["NAME", "STATE", "EXPIRES", "LEFT", "RENEWAL", "ISSUER", "ERROR"]
    assert first.split()[:2] == ["a.test", "valid"]
    assert "5d" in first
    assert "no address; next try" in second
