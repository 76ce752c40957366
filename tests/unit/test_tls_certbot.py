import pytest

from tenement.errors import InvalidConfig
from tenement.tls import certbot
from tenement.tls.queue import Order
from tenement.tls.settings import TlsSettings

SETTINGS = TlsSettings(email="ops@a.test", server="https://ca.test/dir")
FAILED = """Saving debug log to /var/log/letsencrypt/letsencrypt.log
Requesting a certificate for a.test and b.test

Certbot failed to authenticate some domains. The Certificate Authority reported these problems:
  Domain: a.test
  Type:   dns
  Detail: no valid A records found for a.test;
no valid AAAA records found for a.test

Hint: The Certificate Authority failed to verify the temporary challenge files.

Some challenges have failed.
Ask for help or search for solutions at https://community.letsencrypt.org.
"""
LIMITED = """Requesting a certificate for a.test
An unexpected error occurred:
too many certificates (50) already issued for "a.test", retry after 2026-12-01 10:20:30 UTC: see x
Ask for help
"""


def test_a_name_that_failed_has_its_own_reason():
    found = certbot.reasons(FAILED, ["a.test", "*.a.test", "b.test"])
    assert found["a.test"].startswith("no valid A records found for a.test; no valid AAAA")
    assert found["a.test"].endswith("(dns)")
    assert found["*.a.test"] == found["a.test"]
    assert found["b.test"] == "Some challenges have failed."


def test_an_unexpected_error_is_the_reason():
    assert certbot.reasons(LIMITED, ["a.test"])["a.test"].startswith("too many certificates (50)")
    assert certbot.reasons("", ["a.test"])["a.test"] == "certbot said nothing"


def test_the_authority_says_when_to_come_back():
    assert certbot.rate_limited_until(LIMITED, 0) == 1796120430
    assert certbot.rate_limited_until("urn:ietf:params:acme:error:rateLimited", 50) == 3650
    assert certbot.rate_limited_until(FAILED, 0) is None


def test_the_authenticator_is_ours_or_the_name_servers():
    dns = TlsSettings(email="o@a.test", dns="rfc2136", dns_credentials="/root/x", dns_propagation_s=7)
    assert certbot.authenticator(dns, dns=False) == ["--authenticator", "tenement"]
    assert certbot.authenticator(dns, dns=True) == [
        *("--authenticator", "dns-rfc2136", "--dns-rfc2136-credentials", "/root/x"),
        *("--dns-rfc2136-propagation-seconds", "7"),
    ]
    assert certbot.authenticator(TlsSettings(email="o@a.test", dns="route53"), dns=True)[1:] == [
        "dns-route53"
    ]


def test_only_names_of_several_owners_may_fail_one_by_one():
    one = certbot.issue(SETTINGS, "l", Order(("a.test",), False, "g"), force=False, new_key=False)
    many = certbot.issue(SETTINGS, "l", Order(("a.test", "b.test"), False, "g"), force=True, new_key=True)
    assert one[-2:] == ["-d", "a.test"]
    assert "--keep-until-expiring" in one and "--allow-subset-of-names" not in one
    assert {"--allow-subset-of-names", "--force-renewal", "--new-key"} <= set(many)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "missing required field `email`"),
        ('{"email": "--x@a.test"}', "is no mail address"),
        ('{"email": "a@b.test", "server": "http://x"}', "is no ACME server"),
        ('{"email": "a@b.test", "dns": "a --hook"}', "is no DNS plugin"),
        ('{"email": "a@b.test", "dns": "x", "dns_credentials": "y"}', "must be an absolute path"),
        ('{"email": "a@b.test", "hsts_s": -1}', "HSTS may last"),
        ('{"email": "a@b.test", "weekly_limit": 0}', "at least 1"),
    ],
)
def test_bad_settings_are_told(text: str, said: str):
    with pytest.raises(InvalidConfig, match=said):
        TlsSettings.decode(text)
