"""The methods of dev.tenement.Manager1 for certificates and domains."""

from typing import Any

from tenement.manager.bus_service import TENANT, Method, arguments
from tenement.manager.certificates import Certificates


def methods(certificates: Certificates) -> list[Method]:
    """The method table of TLS."""
    domains = certificates.domains

    async def enable(_: str, settings: str) -> list[Any]:
        await certificates.enable(settings)
        return []

    async def disable(_: str) -> list[Any]:
        certificates.disable()
        return []

    async def status(_: str) -> list[Any]:
        return [certificates.status()]

    async def retry(_: str, name: str) -> list[Any]:
        certificates.retry(name)
        return []

    async def replace(_: str, name: str) -> list[Any]:
        await certificates.replace(name)
        return []

    async def deploy(_: str, lineage: str) -> list[Any]:
        await certificates.deploy(lineage)
        return []

    async def own(_: str, name: str, chain: str, key: str) -> list[Any]:
        certificates.own(name, chain, key)
        return []

    async def drop(_: str, name: str) -> list[Any]:
        certificates.drop(name)
        return []

    async def challenge(_: str, token: str, validation: str) -> list[Any]:
        certificates.set_challenge(token, validation)
        return []

    async def add_domain(_: str, service: str, id_: str, domain: str) -> list[Any]:
        return [domains.add(service, id_, domain)]

    async def remove_domain(_: str, domain: str) -> list[Any]:
        domains.remove(domain)
        return []

    async def list_domains(_: str, selector: str) -> list[Any]:
        return [domains.listing(selector)]

    name = arguments("s name")
    return [
        Method("EnableTls", arguments("s settings"), (), enable),
        Method("DisableTls", (), (), disable),
        Method("TlsStatus", (), arguments("s status"), status),
        Method("RetryCertificate", name, (), retry),
        Method("ReplaceCertificate", name, (), replace),
        Method("DeployCertificate", arguments("s lineage"), (), deploy),
        Method("AddCertificate", arguments("s name, s chain, s key"), (), own),
        Method("RemoveCertificate", name, (), drop),
        Method("SetChallenge", arguments("s token, s validation"), (), challenge),
        Method("AddDomain", (*TENANT, *arguments("s domain")), arguments("s domain"), add_domain),
        Method("RemoveDomain", arguments("s domain"), (), remove_domain),
        Method("ListDomains", arguments("s selector"), arguments("s domains"), list_domains),
    ]
