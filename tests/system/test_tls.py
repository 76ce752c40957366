"""HTTPS against a real authority: certbot in its unit, pebble and knot beside it, the installed proxy."""

import json
import socket
import ssl
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from typing import Self

import pytest

from .acme import CREDENTIALS, CUSTOMER, DOMAIN, LIMITING, UMLAUT, Acme, authority
from .conftest import Box

ALICE = f"tls-alice.notes.{DOMAIN}"
BOB = f"tls-bob.notes.{DOMAIN}"
SHOP = f"www.{CUSTOMER}"
CHALLENGE = "/.well-known/acme-challenge/"
MANAGER = "busctl call dev.tenement.Manager /dev/tenement/Manager dev.tenement.Manager1"
TOKEN = "tests-token-0123456789"
SLEEPY = """
[service.short]
command = "/srv/notes/notes.py"
health = "/health"
idle_timeout = 1
"""


@pytest.fixture(scope="module")
def acme(box: Box) -> Iterator[Acme]:
    """HTTPS by http-01, with a tenant `notes:tls-alice`."""
    with authority(box) as made:
        box.run("ten spawn notes:tls-alice")
        try:
            made.enable()
            yield made
        finally:
            box.run("ten rm -y --purge notes:tls-alice notes:tls-bob", check=False)


def state(box: Box, tenant: str) -> str:
    return str(json.loads(box.run(f"ten ps --json {tenant}").stdout)[0]["state"])


def test_every_name_has_its_certificate_after_enable(box: Box, acme: Acme) -> None:
    for name in (DOMAIN, ALICE, f"notes.{DOMAIN}"):
        entry = acme.status(name)
        assert entry["state"] == "valid"
        assert "Pebble" in str(entry["issuer"])
        assert int(str(entry["days_left"])) > 1000
        assert entry["renewal_at"]
    answer = acme.get(ALICE)
    assert (answer.status, answer.body) == (200, b"Notes of tls-alice: see /notes\n")
    shown = box.run("ten tls status").stdout
    assert [line.split()[:2] for line in shown.splitlines() if line.startswith(ALICE)] == [[ALICE, "valid"]]


def test_keys_are_for_root_and_the_workers_alone(box: Box, acme: Acme) -> None:
    listed = box.run("stat -c '%A %U %G' /var/lib/tenement-tls /var/lib/tenement-tls/*.pem").stdout
    assert listed.splitlines()[0] == "drwxr-x--- root tenement-proxy"
    assert set(listed.splitlines()[1:]) == {"-rw-r----- root tenement-proxy"}


def test_plain_http_redirects_names_that_have_a_certificate(box: Box, acme: Acme) -> None:
    answer = box.http(f"{ALICE}:80", "/a?b=c", "POST", body=b"x")
    assert (answer.status, answer.headers["Location"]) == (308, f"https://{ALICE}/a?b=c")
    # A base domain that no authority knows goes on as before.
    assert box.http("tls-alice.notes.localhost", "/health").status == 200


def test_handshakes_for_unknown_names_are_refused(acme: Acme) -> None:
    for name in (f"never.notes.{DOMAIN}", f"www.{ALICE}", f"www.www.{ALICE}", "unknown.example"):
        assert acme.refusal(name) == "TLSV1_UNRECOGNIZED_NAME"


def test_a_request_for_another_host_than_the_handshake_was_for_is_misdirected(acme: Acme) -> None:
    assert acme.get(ALICE, host=DOMAIN).status == 421
    assert acme.get(ALICE, host=f"{ALICE}.:443").status == 200
    # Without SNI the base domain is meant, and nobody else.
    assert acme.get(None, host=ALICE).status == 421
    with acme.connect(None) as sock:
        der = sock.getpeercert(binary_form=True)
    assert der is not None and DOMAIN.encode() in der and ALICE.encode() not in der


def test_only_modern_tls_is_spoken(box: Box, acme: Acme) -> None:
    with acme.connect(ALICE) as sock:
        assert (sock.version(), sock.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
    document = ElementTree.fromstring(box.run(f"sslscan --xml=- {ALICE}", timeout_s=60).stdout)
    protocols = {
        f"{each.get('type')}{each.get('version')}"
        for each in document.iter("protocol")
        if each.get("enabled") == "1"
    }
    assert protocols == {"tls1.2", "tls1.3"}
    ciphers = {(each.get("sslversion"), str(each.get("cipher"))) for each in document.iter("cipher")}
    assert ciphers
    assert all("GCM" in cipher or "CHACHA20" in cipher for _, cipher in ciphers)
    assert all(cipher.startswith("ECDHE-") for version, cipher in ciphers if version == "TLSv1.2")
    for tag, key in (
        ("compression", "supported"),
        ("heartbleed", "vulnerable"),
        ("renegotiation", "supported"),
    ):
        assert {each.get(key) for each in document.iter(tag)} <= {"0"}, tag


def test_sessions_are_resumed(acme: Acme) -> None:
    context = ssl.create_default_context(cadata=acme.root)
    session = None
    resumed = 0
    # Each worker has its own key for tickets, so not every attempt meets the one that the session is from.
    for _ in range(40):
        sock = socket.create_connection(("127.0.0.1", 443), timeout=5)
        with context.wrap_socket(sock, server_hostname=ALICE, session=session) as tls:
            tls.sendall(f"GET /health HTTP/1.1\r\nHost: {ALICE}\r\nConnection: close\r\n\r\n".encode())
            while tls.recv(4096):
                pass
            resumed += bool(tls.session_reused)
            session = session or tls.session
    assert resumed >= 5


def test_an_open_challenge_is_answered_by_the_proxy_and_wakes_nobody(box: Box, acme: Acme) -> None:
    box.run("ten stop notes:tls-alice")
    box.run(f"{MANAGER} SetChallenge ss {TOKEN} {TOKEN}.thumbprint")
    try:
        box.wait_for(lambda: box.http(ALICE, CHALLENGE + TOKEN).status == 200, 5)
        answer = box.http(ALICE, CHALLENGE + TOKEN)
        assert (answer.status, answer.body) == (200, f"{TOKEN}.thumbprint".encode())
        assert box.http(ALICE, CHALLENGE + "another-token").status == 404
    finally:
        box.run(f"{MANAGER} SetChallenge ss {TOKEN} ''")
    box.wait_for(lambda: box.http(ALICE, CHALLENGE + TOKEN).status == 404, 5)
    assert state(box, "notes:tls-alice") in ("asleep", "armed")


def test_a_client_hello_wakes_the_tenant_before_its_request(
    box: Box, acme: Acme, tenant: Callable[[str], str]
) -> None:
    box.write_config("short", SLEEPY)
    name = tenant("short")
    box.run(["ten", "spawn", "--no-start", name])
    host = f"{name.partition(':')[2]}.short.{DOMAIN}"
    acme.wait_for(host)
    assert state(box, name) in ("asleep", "armed")
    with acme.connect(host):
        box.wait_for(lambda: state(box, name) == "running", 10)
        # No request follows: it goes back to sleep, though the connection is still there.
        box.wait_for(lambda: state(box, name) in ("asleep", "armed"), 15)


def test_scanners_cause_no_order(box: Box, acme: Acme) -> None:
    before = box.run("ls /etc/letsencrypt/live").stdout
    began = box.run("date +%s").stdout.strip()
    for number in range(200):
        assert acme.refusal(f"x{number}.notes.{DOMAIN}") == "TLSV1_UNRECOGNIZED_NAME"
    assert box.run("ls /etc/letsencrypt/live").stdout == before
    said = box.run(f"journalctl -q -t tenement-manager --since @{began} -o cat").stdout
    assert "ordering" not in said
    assert "x0" not in box.run("ten tls status").stdout


def test_a_tenant_that_is_spawned_and_removed(box: Box, acme: Acme) -> None:
    assert acme.refusal(BOB)
    box.run("ten spawn notes:tls-bob")
    acme.wait_for(BOB)
    assert acme.get(BOB).status == 200
    box.run("ten rm -y --purge notes:tls-bob")
    box.wait_for(lambda: acme.refusal(BOB) == "TLSV1_UNRECOGNIZED_NAME", 5)
    assert box.http(BOB).status == 404
    assert acme.get(ALICE).status == 200


def test_a_customers_domain(box: Box, acme: Acme) -> None:
    assert box.run(f"ten domain add notes:tls-alice {SHOP}").stdout == f"{SHOP}  notes:tls-alice\n"
    acme.wait_for(SHOP)
    assert acme.get(SHOP).body == b"Notes of tls-alice: see /notes\n"
    taken = box.run(f"ten domain add notes:nobody {SHOP}", check=False)
    assert taken.returncode == 3
    for claim in (DOMAIN, f"other.notes.{DOMAIN}"):
        refused = box.run(f"ten domain add notes:tls-alice {claim} --no-check", check=False)
        assert (refused.returncode, f"belongs to {DOMAIN}" in refused.stderr) == (8, True)
    astray = box.run(f"ten domain add notes:tls-alice elsewhere.{CUSTOMER}", check=False)
    assert astray.returncode == 8
    assert "leads to 192.0.2.1, which is not this server" in astray.stderr


def test_two_tenants_cannot_have_one_domain(box: Box, acme: Acme, tenant: Callable[[], str]) -> None:
    other = tenant()
    box.run(["ten", "spawn", "--no-start", other])
    box.run(f"ten domain add --no-check notes:tls-alice one.{CUSTOMER}")
    try:
        refused = box.run(f"ten domain add --no-check {other} one.{CUSTOMER}", check=False)
        assert (refused.returncode, "is taken already" in refused.stderr) == (8, True)
    finally:
        box.run(f"ten domain rm one.{CUSTOMER}")


def test_an_international_domain_is_one_in_either_spelling(box: Box, acme: Acme) -> None:
    box.run("ten domain add notes:tls-alice BÜCHER.test")
    acme.wait_for(UMLAUT)
    assert acme.get(UMLAUT).status == 200
    again = box.run(f"ten domain add notes:tls-alice {UMLAUT}")
    assert again.stdout == f"{UMLAUT}  notes:tls-alice\n"
    assert f"{UMLAUT} (bücher.test)" in box.run("ten domain ls notes:tls-alice").stdout
    box.run("ten domain rm bücher.test")
    box.wait_for(lambda: acme.refusal(UMLAUT) == "TLSV1_UNRECOGNIZED_NAME", 5)
    bad = box.run("ten domain add notes:tls-alice -- -x.test", check=False)
    assert (bad.returncode, "must not begin or end with '-'" in bad.stderr) == (2, True)


def test_a_name_that_cannot_be_had_says_why_and_waits(box: Box, acme: Acme) -> None:
    name = f"elsewhere.{CUSTOMER}"
    box.run(f"ten domain add --no-check notes:tls-alice {name}")
    try:
        entry = acme.wait_for(name, "failed")
        assert "192.0.2.1" in str(entry["error"]) or "connection" in str(entry["error"])
        assert 200 < float(str(entry["retry_at"])) - time.time() < 310
        box.run(f"ten tls retry {name}")
        acme.wait_for(name, "ordering")
        acme.wait_for(name, "failed")
    finally:
        box.run(f"ten domain rm {name}")


class Load:
    """Handshakes for a name, one after the other from each of two threads. `served` has the serials seen."""

    def __init__(self, acme: Acme, name: str) -> None:
        self._acme, self._name = acme, name
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]
        self.failures: list[Exception] = []
        self.served: list[str] = []

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.served.append(self._acme.serial(self._name))
            except OSError as error:
                self.failures.append(error)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)


def test_a_renewal_is_served_at_once_and_breaks_nothing(box: Box, acme: Acme) -> None:
    before = acme.serial(ALICE)
    with acme.connect(ALICE) as long_lived:
        head = f"POST /notes HTTP/1.1\r\nHost: {ALICE}\r\nContent-Length: 6\r\n\r\nab"
        long_lived.sendall(head.encode())
        # As certbot.timer has it.
        renew = f"certbot -q renew --force-renewal --no-random-sleep-on-renew --cert-name tenement-{ALICE}"
        with Load(acme, ALICE) as load:
            box.run(renew, timeout_s=60)
            renewed = acme.serial(ALICE)
        long_lived.sendall(b"cdef")
        assert long_lived.recv(4096).startswith(b"HTTP/1.1 2")
    assert renewed != before
    assert not load.failures
    assert len(load.served) > 20
    assert set(load.served) <= {before, renewed}


def test_replacing_the_workers_fails_no_handshake(box: Box, acme: Acme) -> None:
    with Load(acme, ALICE) as load:
        box.run("systemctl start tenement-proxy-replace.service", timeout_s=90)
    assert not load.failures
    assert len(load.served) > 20


def test_a_replaced_certificate_is_revoked(box: Box, acme: Acme) -> None:
    before = acme.serial(ALICE)
    box.run(f"ten tls replace {ALICE}", timeout_s=60)
    after = acme.serial(ALICE)
    assert after != before
    assert "Revoked" in acme.management(f"cert-status-by-serial/{before.lower().lstrip('0')}")
    assert "Valid" in acme.management(f"cert-status-by-serial/{after.lower().lstrip('0')}")


def test_broken_files_leave_the_old_certificate_in_use(box: Box, acme: Acme) -> None:
    before = acme.serial(ALICE)
    lineage = f"tenement-{ALICE}"
    live = f"/etc/letsencrypt/live/{lineage}"
    box.run(f"cp {live}/fullchain.pem /srv/acme/whole.pem")
    try:
        box.run(f"head -c 700 /srv/acme/whole.pem >{live}/fullchain.pem")
        refused = box.run(f"RENEWED_LINEAGE={live} /usr/lib/tenement/deploy-certificate", check=False)
        assert refused.returncode
        assert "the chain is not whole PEM" in refused.stderr
        assert "not whole PEM" in str(acme.status(ALICE)["error"])
        assert acme.serial(ALICE) == before
    finally:
        box.run(f"cat /srv/acme/whole.pem >{live}/fullchain.pem")
    box.run(f"RENEWED_LINEAGE={live} /usr/lib/tenement/deploy-certificate")
    assert acme.status(ALICE)["error"] is None


def test_a_certificate_of_ones_own_is_served(box: Box, acme: Acme) -> None:
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=own"
    files = "-keyout /srv/acme/own.key -out /srv/acme/own.crt"
    box.run(f"{make} -addext subjectAltName=DNS:own.{CUSTOMER} {files}")
    mismatched = box.run("ten tls add mine /srv/acme/own.crt /srv/acme/pebble.key", check=False)
    assert (mismatched.returncode, mismatched.stderr) == (
        5,
        "ten: mine: the private key is not the certificate's\n",
    )
    box.run("ten tls add mine /srv/acme/own.crt /srv/acme/own.key")
    try:
        box.wait_for(lambda: acme.refusal(f"own.{CUSTOMER}") == "", 5)
    finally:
        box.run("ten tls remove mine")
    box.wait_for(lambda: acme.refusal(f"own.{CUSTOMER}") == "TLSV1_UNRECOGNIZED_NAME", 5)


def test_an_authority_that_has_had_enough_is_left_alone(box: Box, acme: Acme) -> None:
    shown = acme.enable(server=LIMITING)
    try:
        entry = acme.status(ALICE)
        assert entry["state"] == "limited"
        assert "too many certificates" in str(entry["error"])
        assert "2099-01-02 03:04:05" in shown
        assert acme.get(ALICE).status == 200
    finally:
        acme.enable()


def test_wildcards_by_dns(box: Box, acme: Acme) -> None:
    box.run(f"chmod 0644 {CREDENTIALS}")
    options = ("--dns", "rfc2136", "--dns-credentials", CREDENTIALS, "--dns-propagation", "0", "--hsts", "30")
    assert f"chmod 0600 {CREDENTIALS}" in acme.enable(*options, check=False)
    assert "apt install python3-certbot-dns-route53" in acme.enable("--dns", "route53", check=False)
    box.run(f"chmod 0600 {CREDENTIALS}")
    acme.enable(*options)
    try:
        for name in (f"*.{DOMAIN}", f"*.notes.{DOMAIN}"):
            assert acme.status(name)["state"] == "valid"
        with acme.connect(f"any.notes.{DOMAIN}") as sock:
            names = {name for _, name in (sock.getpeercert() or {})["subjectAltName"]}
        assert names == {f"*.notes.{DOMAIN}"}
        assert acme.refusal(f"www.any.notes.{DOMAIN}") == "TLSV1_UNRECOGNIZED_NAME"
        assert acme.get(f"any.notes.{DOMAIN}").status == 404
        answer = acme.get(ALICE)
        assert (answer.status, answer.headers["Strict-Transport-Security"]) == (200, "max-age=2592000")
    finally:
        acme.enable()


def test_certificates_outlive_the_manager_and_the_workers(box: Box, acme: Acme) -> None:
    before = acme.serial(ALICE)
    box.run("systemctl restart tenement-manager.service tenement-proxy@1.service")
    assert acme.serial(ALICE) == before
    assert acme.get(ALICE).status == 200


def test_disable_serves_plain_http_again(box: Box, acme: Acme) -> None:
    box.run("ten tls disable")
    try:
        box.wait_for(lambda: box.http(ALICE, "/health").status == 200, 5)
        assert acme.refusal(ALICE) == "TLSV1_UNRECOGNIZED_NAME"
        assert "not enabled" in box.run("ten tls status").stdout
    finally:
        acme.enable()
    assert acme.get(ALICE).status == 200


def test_bad_options_of_enable_are_told_at_once(box: Box, acme: Acme) -> None:
    for options, said in (
        ("--email nobody", "'nobody' is no mail address"),
        ("--email a@b.test --acme-server http://x", "is no ACME server"),
        ("--email a@b.test --dns-credentials /etc/passwd", "are for a DNS plugin"),
        ("--email a@b.test --staging --acme-server https://x", "name two authorities"),
    ):
        result = box.run(f"ten tls enable {options}", check=False)
        assert (result.returncode, said in result.stderr) == (5, True), result.stderr
