from tenement.config import Config, Routing, Service, Settings
from tenement.names import TenantName
from tenement.tls.names import lineage_name, wanted
from tenement.tls.selection import Certificate, Selection, covers

CONFIG = Config(
    settings=Settings(domains=("localhost", "example.com")),
    services={"notes": Service(name="notes"), "blog": Service(name="blog")},
    routing=Routing(hosts={"www.example.com": "notes", "shop.test": "notes:alice"}),
)
ALICE, BOB = TenantName("notes", "alice"), TenantName("notes", "bob")
GONE = TenantName("gone", "x")


def names(*, dns: bool) -> list[str]:
    domains = {"alice.test": ALICE, "a.notes.example.com": ALICE}
    return [want.name for want in wanted(CONFIG, [ALICE, BOB, GONE], domains, dns=dns)]


def test_by_http_every_configured_name_is_wanted_for_itself():
    assert names(dns=False) == [
        "example.com",
        "alice.notes.example.com",
        "bob.notes.example.com",
        "notes.example.com",
        "blog.example.com",
        "www.example.com",
        "shop.test",
        "alice.test",
        "a.notes.example.com",
    ]


def test_by_dns_a_wildcard_for_each_service_is_wanted():
    found = ["example.com", "*.example.com", "*.notes.example.com", "*.blog.example.com"]
    assert names(dns=True) == [*found, "shop.test", "alice.test"]


def test_only_tenants_of_one_service_share_certificates_and_the_domain_counts_together():
    wants = {want.name: want for want in wanted(CONFIG, [ALICE, BOB], {"alice.test": ALICE}, dns=False)}
    assert wants["alice.notes.example.com"].bundle == wants["bob.notes.example.com"].bundle
    bundles = {want.bundle for want in wants.values()}
    assert len(bundles) == len(wants) - 1
    assert wants["www.example.com"].group == wants["notes.example.com"].group == "example.com"
    assert wants["alice.test"].group == "alice.test"


def test_lineages_have_names_that_no_host_can_have():
    assert lineage_name("*.notes.example.com") == "tenement-_.notes.example.com"


def test_a_wildcard_covers_one_label():
    assert covers(["*.a.test"], "x.a.test")
    assert not covers(["*.a.test"], "a.test")
    assert not covers(["*.a.test"], "y.x.a.test")


def test_selection_prefers_the_exact_name_and_the_later_certificate():
    def certificate(at: float, *found: str) -> Certificate:
        return Certificate(found, "", "", at)

    selection = Selection(
        {
            "late": certificate(2, "b.test"),
            "early": certificate(1, "b.test", "a.test"),
            "wild": certificate(3, "*.test", "*.a.test"),
        },
        "a.test",
    )
    assert selection.find("a.test") == "early"
    assert selection.find("b.test") == "late"
    assert selection.find("c.test") == "wild"
    assert selection.find("x.a.test") == "wild"
    assert selection.find("y.x.a.test") is None
    assert selection.find(None) == "early"
    assert selection.default_covers("a.test") and selection.default_covers("b.test")
    assert not selection.default_covers("c.test")
    assert Selection({}, "a.test").find(None) is None
    assert Selection({"w": certificate(0, "*.test")}).find(None) is None
