import pytest

from tenement.proxy.forwarded import TrustedProxies, client, fields, fields_from_proxy

TRUSTED = TrustedProxies(["10.0.0.0/8", "fd00::/8", "not a network"])


@pytest.mark.parametrize(
    ("chain", "address"),
    [
        ([b"9.9.9.9"], "9.9.9.9"),
        ([b"6.6.6.6", b"9.9.9.9", b"10.0.0.1"], "9.9.9.9"),
        ([b"10.0.0.2", b"10.0.0.1"], "10.0.0.2"),
        ([b"9.9.9.9:1234", b"10.0.0.1:80"], "9.9.9.9"),
        ([b"[2001:db8::1]:80", b"fd00::1"], "2001:db8::1"),
        ([b"unknown", b"10.0.0.1"], "unknown"),
        ([b"9.9.9.9", b"::ffff:10.0.0.1"], "9.9.9.9"),
    ],
)
def test_the_chain_is_read_from_the_right_up_to_the_first_untrusted_hop(chain: list[bytes], address: str):
    assert client(chain, TRUSTED) == address


def test_addresses_with_colons_are_quoted():
    assert fields("2001:db8::1", b"https", b"a.example:8443").endswith(
        b'\r\nForwarded: for="[2001:db8::1]";host="a.example:8443";proto=https'
    )


def test_what_a_trusted_proxy_said_is_kept_and_appended_to():
    said = [
        (b"x-forwarded-for", b"9.9.9.9"),
        (b"x-forwarded-for", b"10.0.0.2"),
        (b"x-forwarded-host", b"www.example"),
        (b"x-forwarded-prefix", b"/app"),
        (b"forwarded", b"for=9.9.9.9"),
    ]
    assert fields_from_proxy("10.0.0.1", b"http", b"inner", said, TRUSTED).split(b"\r\n")[1:] == [
        b"X-Forwarded-For: 9.9.9.9, 10.0.0.2, 10.0.0.1",
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Host: www.example",
        b"X-Real-IP: 9.9.9.9",
        b"Forwarded: for=9.9.9.9, for=10.0.0.1;host=inner;proto=http",
        b"X-Forwarded-Prefix: /app",
    ]


def test_nobody_is_trusted_without_networks():
    assert "10.0.0.1" not in TrustedProxies([])
    assert "10.0.0.1" in TRUSTED and "11.0.0.1" not in TRUSTED
