"""The routes document of the manager, and the table that finds the target of a host and a path.

A host is looked up in this order: an override or custom domain (`hosts`), a base domain itself (path
overrides, then `root`), `id.service.domain`, `service.domain`. A name below a base domain that is none of
these is unknown; a name outside of them goes to `default`, if there is one.
"""

import random
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

import msgspec

from tenement.proxy.document import Change, Document, TenantEntry
from tenement.proxy.hosts import BadHost, fold
from tenement.proxy.policy import Policy

CACHE_SIZE: Final = 10_000
"""Hosts whose target is remembered; visitors choose hosts, so there has to be an end."""


class Tenant:
    """A tenant as a target."""

    __slots__ = ("enabled", "id", "limited", "name", "policy", "service", "sick", "weight")

    def __init__(self, name: str, entry: TenantEntry, policy: Policy) -> None:
        self.name = name
        self.service, _, self.id = name.partition(":")
        self.policy = policy
        self.limited = bool(policy.max_body_bytes or policy.max_requests or policy.rate_limit_rps)
        self.weight = entry.weight
        self.enabled = entry.enabled
        self.sick = entry.sick

    def __repr__(self) -> str:
        return f"Tenant({self.name!r})"


class Service:
    """A service as a target: each request goes to one of its tenants, by weight.

    Sick ones get none as long as there are others.
    """

    __slots__ = ("_bounds", "_candidates", "members", "name", "policy")

    def __init__(self, name: str, policy: Policy) -> None:
        self.name = name
        self.policy = policy
        self.members: dict[str, Tenant] = {}
        self._candidates: list[Tenant] | None = None
        self._bounds: list[int] = []

    def put(self, tenant: Tenant) -> None:
        """Add a tenant, or replace the one with its id."""
        self.members[tenant.id] = tenant
        self._candidates = None

    def drop(self, id_: str) -> None:
        """Forget a tenant."""
        self.members.pop(id_, None)
        self._candidates = None

    def choose(self, point: float) -> Tenant | None:
        """The tenant at `point`, 0 <= point < 1, of the line that the weights divide; None if all weigh
        nothing.
        """
        if self._candidates is None:
            weighty = [each for each in self.members.values() if each.enabled and each.weight > 0]
            self._candidates = [each for each in weighty if not each.sick] or weighty
            self._bounds = list(accumulate(each.weight for each in self._candidates))
        if not self._candidates:
            return None
        return self._candidates[bisect_right(self._bounds, point * self._bounds[-1])]

    def choose_at_random(self) -> Tenant | None:
        """As `choose`, anywhere on the line."""
        return self.choose(random.random())


class Root:
    """The base domain itself: tenement's own API and dashboard. No lease is needed for it."""

    __slots__ = ("address", "name", "policy")

    def __init__(self, address: str) -> None:
        self.address = address
        self.name = "tenement"
        self.policy = Policy(request_timeout_s=60.0)


type Target = Tenant | Service | Root


class Table:
    """All routes, as complete as the last document and the changes since."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.services: dict[str, Service] = {
            name: Service(name, policy) for name, policy in document.services.items()
        }
        for name, entry in document.tenants.items():
            self._put(name, entry)
        self._domains = sorted((_folded(each) for each in document.domains), key=len, reverse=True)
        self._hosts = {_folded(host): target for host, target in document.hosts.items()}
        self._paths = sorted(
            ((path.rstrip("/").encode(), target) for path, target in document.paths),
            key=lambda each: len(each[0]),
            reverse=True,
        )
        self._root = Root(document.root or "")
        self._known: dict[bytes, Target | None] = {}

    @classmethod
    def decode(cls, text: str | bytes) -> "Table":
        """The table of a routes document. Raises msgspec.ValidationError or msgspec.DecodeError."""
        return cls(msgspec.json.decode(text, type=Document))

    def tenants(self) -> Iterator[Tenant]:
        """All tenants."""
        for service in self.services.values():
            yield from service.members.values()

    def has_tenant(self, name: str) -> bool:
        """Whether there is a tenant of that name."""
        service, _, id_ = name.partition(":")
        return service in self.services and id_ in self.services[service].members

    def apply(self, change: Change) -> None:
        """Follow a change of tenants and hosts. A service not heard of before gets the default policy."""
        for host, target in change.hosts.items():
            if target is None:
                self._hosts.pop(_folded(host), None)
            else:
                self._hosts[_folded(host)] = target
        for name, entry in change.tenants.items():
            if entry is None:
                service, _, id_ = name.partition(":")
                if service in self.services:
                    self.services[service].drop(id_)
            else:
                self._put(name, entry)
        self._known.clear()

    def find(self, host: bytes, path: bytes) -> Target | None:
        """The target of a request, by its Host field as sent and its path; None: unknown. Raises BadHost."""
        try:
            target = self._known[host]
        except KeyError:
            target = self._resolve(fold(host))
            if len(self._known) >= CACHE_SIZE:
                self._known.clear()
            self._known[host] = target
        if target is self._root:
            return self._by_path(path)
        return target

    def service_above(self, host: bytes) -> Service | None:
        """The service of which a host that has no target would name a tenant. Raises BadHost."""
        name = fold(host)
        for domain in self._domains:
            if name.endswith("." + domain):
                return self.services.get(name[: -len(domain) - 1].rpartition(".")[2])
        return None

    def _put(self, name: str, entry: TenantEntry) -> None:
        service_name = name.partition(":")[0]
        service = self.services.get(service_name)
        if service is None:
            service = self.services[service_name] = Service(service_name, Policy())
        service.put(Tenant(name, entry, service.policy))

    def _resolve(self, host: str) -> Target | None:
        """The target of a folded host; the root stands for the base domains, even without an address."""
        if host in self._hosts:
            return self._named(self._hosts[host])
        for domain in self._domains:
            if host == domain:
                return self._root
            if host.endswith("." + domain):
                return self._below(host[: -len(domain) - 1])
        return self._named(self.document.default) if self.document.default else None

    def _below(self, labels: str) -> Target | None:
        """The target of `service` or `id.service`, the labels in front of a base domain."""
        id_, dot, name = labels.rpartition(".")
        service = self.services.get(name)
        if service is None:
            return None
        return service.members.get(id_) if dot else service

    def _named(self, name: str) -> Target | None:
        """The target that configuration calls `service` or `service:id`."""
        name, colon, id_ = name.partition(":")
        service = self.services.get(name)
        if service is None:
            return None
        return service.members.get(id_) if colon else service

    def _by_path(self, path: bytes) -> Target | None:
        """The target of a path on the base domain: the longest prefix of whole segments wins."""
        for prefix, name in self._paths:
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (b"", b"/", b"?"):
                return self._named(name)
        return self._root if self._root.address else None


def _folded(name: str) -> str:
    """A name of the document in the form of the table; one that cannot be a host matches nothing."""
    try:
        return fold(name.encode())
    except BadHost:
        return ""
