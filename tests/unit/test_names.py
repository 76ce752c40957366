import hashlib
import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenement.errors import InvalidName
from tenement.names import (
    LABEL_MAX,
    UNIT_NAME_MAX,
    StandIn,
    TenantName,
    check_domain,
    check_label,
    check_service,
    label_fault,
    parse_unit,
)

# Machines are busy at times: how long an example takes says nothing.
unhurried = settings(deadline=None)

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True).filter(lambda s: s[2:4] != "--")
services = labels.filter(lambda s: s != "proxy" and s.count("-") < 50)
tenants = st.builds(TenantName, services, labels)


@pytest.mark.parametrize("text", ["a", "0", "a-b", "alice", "127", "a" * 63, "a-" * 31 + "a", "api", "www"])
def test_labels_of_the_domain_name_system_are_accepted(text: str) -> None:
    assert check_label("tenant id", text) == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "must not be empty"),
        ("A", "must be lower case: write 'a'"),
        ("Alice-1", "must be lower case: write 'alice-1'"),
        ("a_b", "may hold only a-z, 0-9 and '-', not '_'"),
        ("a.b", "not '.'"),
        ("..", "not '.'"),
        ("a/b", "not '/'"),
        ("a b", "not ' '"),
        ("a\n", "not '\\n'"),
        ("é", "not 'é'"),
        ("\u0131", "not"),
        ("-a", "must not begin or end with '-'"),
        ("a-", "must not begin or end with '-'"),
        ("-", "must not begin or end with '-'"),
        ("a" * 64, "must be at most 63 characters long, not 64"),
        ("xn--a", "third and fourth characters"),
        ("ab--cd", "third and fourth characters"),
    ],
)
def test_other_labels_are_refused_with_the_rule(text: str, rule: str) -> None:
    with pytest.raises(InvalidName) as caught:
        check_label("tenant id", text)
    assert rule in caught.value.message
    assert caught.value.message.startswith("tenant id ")
    assert caught.value.value == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("notes", "must be SERVICE:ID"),
        ("", "must be SERVICE:ID"),
        ("notes:", "must not be empty"),
        (":alice", "must not be empty"),
        ("notes:a:b", "not ':'"),
        ("proxy:1", "tenement's own"),
        ("aaa" + "-" * 59 + "ab:x", "characters long"),
    ],
)
def test_what_is_no_tenant_is_refused(text: str, rule: str) -> None:
    with pytest.raises(InvalidName, match=re.escape(rule)):
        TenantName.parse(text)


def test_a_service_whose_slice_would_have_too_long_a_name_is_refused() -> None:
    with pytest.raises(InvalidName, match="too many dashes"):
        check_service("a-b" + "-" * 59 + "c")
    assert len(TenantName("aaa" + "-" * 59 + "c", "x").slice) == UNIT_NAME_MAX


def test_everything_on_the_machine_is_named_after_the_tenant() -> None:
    name = TenantName.parse("my-app:bob")
    assert str(name) == "my-app:bob"
    assert name.unit == "tenement-my-app@bob.service"
    assert name.slice == r"tenement-my\x2dapp.slice"
    assert name.data_directory == "tenement/my-app/bob"
    assert name.host("example.com") == "bob.my-app.example.com"
    assert hashlib.sha256(b"my-app:bob").digest()[0] >> 3 == (string.ascii_lowercase + "234567").index(
        name.user[3]
    )


@unhurried
@given(tenants)
def test_names_are_read_back_from_text_and_unit(name: TenantName) -> None:
    assert TenantName.parse(str(name)) == name
    assert parse_unit(name.unit) == name
    stand_in = StandIn(name.service, name.id)
    assert StandIn.parse_unit(stand_in.unit) == stand_in
    assert parse_unit(stand_in.unit) is None and StandIn.parse_unit(name.unit) is None


@unhurried
@given(tenants)
def test_derived_names_are_valid_for_systemd(name: TenantName) -> None:
    assert re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", name.user)
    assert len(name.unit) <= UNIT_NAME_MAX
    # One dash, after the prefix: the slice lies in tenement.slice and in no other.
    assert len(name.slice) <= UNIT_NAME_MAX
    assert name.slice.count("-") == 1
    assert len(name.host("d" * 63 + "." + "e" * 61)) <= 253


@unhurried
@given(tenants, tenants)
def test_two_tenants_share_nothing(one: TenantName, other: TenantName) -> None:
    if one == other:
        return
    assert one.unit != other.unit
    assert one.user != other.user
    assert one.data_directory != other.data_directory
    assert one.host("example.com") != other.host("example.com")
    assert (one.slice == other.slice) == (one.service == other.service)


@pytest.mark.parametrize(
    ("one", "other"),
    [("notes-a:b", "notes:a-b"), ("a-b:c", "a:b-c"), ("my:app", "my-app:app"), ("x2d:a", "x:2d-a")],
)
def test_names_chosen_to_collide_do_not(one: str, other: str) -> None:
    a, b = TenantName.parse(one), TenantName.parse(other)
    assert len({a.unit, b.unit}) == len({a.user, b.user}) == len({a.slice, b.slice}) == 2
    assert len({a.data_directory, b.data_directory}) == len({a.host("x"), b.host("x")}) == 2
    # No directory lies inside the other's.
    assert not (a.data_directory + "/").startswith(b.data_directory + "/")


@pytest.mark.parametrize(
    "unit",
    [
        "tenement-manager.service",
        "tenement-proxy@1.service",
        "tenement-http.socket",
        "tenement-notes@alice.socket",
        "tenement-notes@Alice.service",
        "tenement-notes@.service",
        "notes@alice.service",
        "tenement-@alice.service",
        "tenement-notes@a@b.service",
        "",
    ],
)
def test_other_units_are_no_tenants(unit: str) -> None:
    assert parse_unit(unit) is None


@unhurried
@given(st.text(max_size=70))
def test_any_text_is_either_a_label_or_has_a_fault(text: str) -> None:
    fault = label_fault(text)
    if fault is None:
        assert re.fullmatch(r"[a-z0-9-]+", text)
        assert len(text) <= LABEL_MAX
        assert text.encode("idna").decode() == text
    else:
        assert fault


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
    ],
)
def test_domains_have_one_form(text: str, domain: str) -> None:
    assert check_domain(text) == domain


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "empty part"),
        ("a..b", "empty part"),
        (".a", "empty part"),
        ("a_b.example", "not '_'"),
        ("-a.example", "begin or end"),
        ("10.0.0.1", "not an address"),
        ("[::1]", "not '['"),
        ("example.com:80", "not ':'"),
        ("straße.example", "two encodings"),
        ("a." * 130 + "b", "at most 253"),
        ("ü" * 63 + ".example", "cannot be encoded"),
    ],
)
def test_what_is_no_domain_is_refused(text: str, rule: str) -> None:
    with pytest.raises(InvalidName, match=re.escape(rule)):
        check_domain(text)
