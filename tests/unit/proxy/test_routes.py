import json
from collections import Counter

import pytest

from tenement.proxy.document import Change, Document, TenantEntry
from tenement.proxy.hosts import BadHost
from tenement.proxy.routes import CACHE_SIZE, Root, Service, Table, Tenant

DOCUMENT = {
    "domains": ["example.com", "eu.example.com"],
    "default": "notes:fallback",
    "hosts": {"www.shop.example": "notes:bob", "bücher.example": "notes:alice", "any.example": "blog"},
    "paths": [["/blog", "blog:main"], ["/blog/old", "notes:bob"]],
    "root": "unix:/run/api",
    "services": {"notes": {"request_timeout_s": 5}, "blog": {}},
    "tenants": {
        "notes:alice": {"weight": 90},
        "notes:bob": {"weight": 10},
        "notes:off": {"enabled": False, "weight": 50},
        "notes:fallback": {"weight": 0},
        "blog:main": {},
    },
}


def table(**changes: object) -> Table:
    return Table.decode(json.dumps(DOCUMENT | changes))


def found(routes: Table, host: str, path: bytes = b"/") -> str | None:
    target = routes.find(host.encode(), path)
    return target and target.name


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("alice.notes.example.com", "notes:alice"),
        ("ALICE.notes.example.com.:8080", "notes:alice"),
        ("alice.notes.eu.example.com", "notes:alice"),
        ("notes.example.com", "notes"),
        ("nobody.notes.example.com", None),
        ("alice.nothing.example.com", None),
        ("nothing.example.com", None),
        ("x.alice.notes.example.com", None),
        ("example.com", "tenement"),
        ("eu.example.com", "tenement"),
        ("www.shop.example", "notes:bob"),
        ("xn--bcher-kva.example", "notes:alice"),
        ("bücher.example", "notes:alice"),
        ("any.example", "blog"),
        ("unknown.example", "notes:fallback"),
        ("[::1]:80", "notes:fallback"),
        ("off.notes.example.com", "notes:off"),
    ],
)
def test_a_host_has_one_target(host: str, name: str | None):
    routes = table()
    assert found(routes, host) == name
    assert found(routes, host) == name  # remembered


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"/", "tenement"),
        (b"/blog", "blog:main"),
        (b"/blog/", "blog:main"),
        (b"/blog?x", "blog:main"),
        (b"/blog/post", "blog:main"),
        (b"/blog/old", "notes:bob"),
        (b"/blog/older", "blog:main"),
        (b"/blogs", "tenement"),
    ],
)
def test_the_longest_prefix_of_whole_segments_wins_on_the_base_domain(path: bytes, name: str):
    assert found(table(), "example.com", path) == name
    assert found(table(), "alice.notes.example.com", path) == "notes:alice"


def test_without_a_root_only_the_paths_of_the_base_domain_are_known():
    routes = table(root=None)
    assert found(routes, "example.com") is None
    assert found(routes, "example.com", b"/blog") == "blog:main"
    assert found(table(root=None, default=None), "unknown.example", b"/blog") is None


def test_targets_know_their_policy():
    routes = table()
    alice = routes.find(b"alice.notes.example.com", b"/")
    assert isinstance(alice, Tenant) and alice.policy.request_timeout_s == 5
    assert isinstance(routes.find(b"notes.example.com", b"/"), Service)
    assert isinstance(routes.find(b"example.com", b"/"), Root)


def test_weights_divide_the_requests_of_a_service():
    service = table().find(b"notes.example.com", b"/")
    assert isinstance(service, Service)
    chosen = Counter(service.choose(point / 1000) for point in range(1000))
    assert {tenant.id: count for tenant, count in chosen.items() if tenant} == {"alice": 900, "bob": 100}


def test_a_sick_tenant_is_chosen_only_if_all_are():
    sick = {"weight": 90, "sick": True}
    for tenants, chosen in (
        ({"notes:alice": sick, "notes:bob": {"weight": 10}}, {"bob"}),
        ({"notes:alice": sick, "notes:bob": {"weight": 10, "sick": True}}, {"alice", "bob"}),
        ({"notes:alice": sick, "notes:bob": {"weight": 0}}, {"alice"}),
    ):
        service = table(tenants=tenants).find(b"notes.example.com", b"/")
        assert isinstance(service, Service)
        found = {service.choose(point / 100) for point in range(100)}
        assert {tenant.id for tenant in found if tenant} == chosen


def test_a_service_whose_tenants_all_weigh_nothing_has_no_target():
    routes = table(tenants={"notes:alice": {"weight": 0}, "notes:bob": {"weight": 5, "enabled": False}})
    service = routes.find(b"notes.example.com", b"/")
    assert isinstance(service, Service) and service.choose_at_random() is None


def test_changes_are_followed_and_forget_what_was_remembered():
    routes = table()
    assert found(routes, "carol.notes.example.com") is None
    entry = TenantEntry()
    routes.apply(Change(tenants={"notes:carol": entry, "notes:alice": None, "new:one": entry}))
    assert found(routes, "carol.notes.example.com") == "notes:carol"
    assert found(routes, "alice.notes.example.com") is None
    assert found(routes, "one.new.example.com") == "new:one"
    routes.apply(Change(tenants={"gone:x": None}))
    assert {tenant.name for tenant in routes.tenants()} == {
        "notes:bob",
        "notes:off",
        "notes:fallback",
        "notes:carol",
        "blog:main",
        "new:one",
    }


def test_a_weight_that_changes_counts_from_the_next_request():
    routes = table()
    service = routes.services["notes"]
    routes.apply(Change(tenants={"notes:alice": TenantEntry(weight=0)}))
    assert {service.choose(point / 100) for point in range(100)} == {service.members["bob"]}


def test_hosts_that_visitors_make_up_do_not_fill_the_memory():
    routes = table()
    for number in range(CACHE_SIZE + 10):
        routes.find(b"%d.example.com" % number, b"/")
    assert len(routes._known) <= CACHE_SIZE


def test_a_malformed_host_is_refused():
    with pytest.raises(BadHost):
        table().find(b"a..b", b"/")


def test_an_empty_document_knows_nothing():
    assert Table(Document()).find(b"example.com", b"/") is None
