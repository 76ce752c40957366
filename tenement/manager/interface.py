"""The methods of dev.tenement.Manager1: their names and signatures, and which part of the manager answers."""

from typing import Any

from tenement.manager import deploy, rollout, tls_interface, web
from tenement.manager.bus_service import TENANT, Method, arguments
from tenement.manager.manager import Manager


def methods(manager: Manager) -> list[Method]:
    """The method table of one manager."""

    async def lease(sender: str, service: str, id_: str) -> list[Any]:
        return list(await manager.lease(sender, service, id_))

    async def release(sender: str, service: str, id_: str, generation: int) -> list[Any]:
        manager.release(sender, service, id_, generation)
        return []

    async def report(_: str, service: str, id_: str, generation: int, what: str) -> list[Any]:
        manager.report(service, id_, generation, what)
        return []

    async def get_routes(_: str) -> list[Any]:
        return list(manager.routes())

    async def spawn(_: str, service: str, id_: str, start: bool) -> list[Any]:
        await manager.spawn(service, id_, start=start)
        return []

    async def stop(_: str, service: str, id_: str) -> list[Any]:
        await manager.stop(service, id_)
        return []

    async def restart(_: str, service: str, id_: str) -> list[Any]:
        await manager.restart(service, id_)
        return []

    async def remove(_: str, service: str, id_: str, purge: bool) -> list[Any]:
        await manager.remove(service, id_, purge=purge)
        return []

    async def enable(_: str, service: str, id_: str) -> list[Any]:
        manager.enable(service, id_)
        return []

    async def disable(_: str, service: str, id_: str) -> list[Any]:
        await manager.disable(service, id_)
        return []

    async def set_weight(_: str, service: str, id_: str, weight: int) -> list[Any]:
        manager.set_weight(service, id_, weight)
        return []

    async def list_(_: str, selector: str) -> list[Any]:
        return [manager.listing(selector)]

    async def status(_: str, service: str, id_: str) -> list[Any]:
        return [await manager.status(service, id_)]

    async def reload(_: str) -> list[Any]:
        return [await manager.reload()]

    held = (*TENANT, *arguments("t generation"))
    offered = [
        Method("Lease", TENANT, arguments("s address, t generation"), lease),
        Method("Release", held, (), release),
        Method("Report", (*held, *arguments("s what")), (), report),
        Method("GetRoutes", (), arguments("t serial, s routes"), get_routes),
        Method("Spawn", (*TENANT, *arguments("b start")), (), spawn),
        Method("Stop", TENANT, (), stop),
        Method("Restart", TENANT, (), restart),
        Method("Remove", (*TENANT, *arguments("b purge")), (), remove),
        Method("Enable", TENANT, (), enable),
        Method("Disable", TENANT, (), disable),
        Method("SetWeight", (*TENANT, *arguments("u weight")), (), set_weight),
        Method("List", arguments("s selector"), arguments("s tenants"), list_),
        Method("Status", TENANT, arguments("s status"), status),
        Method("Reload", (), arguments("s report"), reload),
        *deploy.methods(manager.deploys),
        *rollout.methods(manager.rollouts),
        *tls_interface.methods(manager.certificates),
        *web.methods(manager.web),
    ]
    manager.web.tls_status = manager.certificates.status
    manager.web.access.offer({method.name: method for method in offered})
    return offered
