"""Versions side by side: a new one is started before it gets requests, and requests move in one step."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from tenement.errors import Conflict, InvalidName, NotFound, StartFailed, StartTimeout, TenementError
from tenement.lifecycle import Goal
from tenement.manager.bus_service import TENANT, Method, arguments
from tenement.manager.last_line import last_line
from tenement.manager.supervisor import Supervisor, Tenant
from tenement.manager.units import Units
from tenement.names import TenantName, check_service
from tenement.registry import Registry
from tenement.unit_properties import data_path

log = logging.getLogger(__name__)

WEIGHT_MAX: Final = 1_000_000
WEIGHT: Final = 100


class Deploys:
    """Weights of tenants, and the two things that change several at once.

    `register` makes a tenant with a weight; `announce` tells the workers new weights, all in one message.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        registry: Registry,
        register: Callable[[TenantName, int], None],
        announce: Callable[[list[Tenant]], None],
    ) -> None:
        self._supervisor = supervisor
        self._registry = registry
        self._register = register
        self._announce = announce

    def set_weights(self, weights: Mapping[TenantName, int]) -> None:
        """Set the shares of some tenants, all at once for every request. Raises NotFound, InvalidName."""
        tenants = [self._supervisor.get(name) for name in weights]
        for weight in weights.values():
            check_weight(weight)
        with self._registry.transaction():
            for name, weight in weights.items():
                self._registry.set_weight(name, weight)
        for tenant in tenants:
            tenant.weight = weights[tenant.name]
        self._announce(tenants)

    async def deploy(self, service: str, id_: str, weight: int, timeout_ms: int) -> None:
        """Make or take a tenant, wait until it is healthy, and only then give it its share of requests.

        With a timeout of 0 it has its service's `startup_timeout`. If it does not get healthy, a tenant that
        was made for this is removed again, and nothing else has changed. Raises StartFailed, StartTimeout,
        NotFound for the service, InvalidName.
        """
        name = TenantName(service, id_)
        check_weight(weight)
        settings = self._supervisor.config.services.get(service)
        if settings is None:
            raise NotFound(f"{name}: there is no service {service!r}", tenant=str(name))
        timeout_s = timeout_ms / 1000 or settings.startup_timeout_s
        made = name not in self._supervisor.tenants
        had_data = await asyncio.to_thread(os.path.exists, data_path(name))
        if made:
            self._register(name, 0)
        try:
            await self._healthy(name, timeout_s)
        except TenementError as error:
            line = await last_line(name, None)
            if made:
                await self._supervisor.leave(name, Goal.FORGET, "did not get healthy")
                if not had_data:
                    await asyncio.to_thread(Units.purge, name)
            undone = "it is removed again" if made else "its weight is unchanged"
            reason = f" (last line: {line})" if line and "last line" not in error.message else ""
            raise type(error)(f"{error.message.rstrip('.')}{reason}; {undone}", tenant=str(name)) from error
        self.set_weights({name: weight})
        log.info("%s: deployed with weight %d", name, weight)

    async def route(self, service: str, from_id: str, to_id: str) -> None:
        """Give one tenant's share of its service's requests to another, once that one is healthy.

        No request sees a moment in between. Raises NotFound, Conflict, StartFailed, StartTimeout.
        """
        check_service(service)
        source, target = TenantName(service, from_id), TenantName(service, to_id)
        if source == target:
            raise Conflict(f"{source}: is where the requests go already")
        self._supervisor.get(source)
        await self._supervisor.lease(target, "")
        weight = max(self._supervisor.get(source).weight, self._supervisor.get(target).weight) or WEIGHT
        self.set_weights({source: 0, target: weight})
        log.info("%s: requests go from %s to %s", service, from_id, to_id)

    async def _healthy(self, name: TenantName, timeout_s: float) -> None:
        """Start a tenant within a time that may be longer than that of a single start."""
        reason = None
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        await self._supervisor.lease(name, "")
                    except StartTimeout as error:
                        # One start has taken too long: there is time for another.
                        reason = error
                    else:
                        return
        except TimeoutError:
            text = f"{name}: not healthy within {timeout_s:g} s"
            raise StartTimeout(text, tenant=str(name), after_s=timeout_s) from reason
        except StartFailed as error:
            raise StartFailed(error.message, tenant=str(name)) from error


def check_weight(weight: int) -> int:
    """Returns a weight that can be set. Raises InvalidName."""
    if weight > WEIGHT_MAX:
        raise InvalidName.of("weight", str(weight), f"must be at most {WEIGHT_MAX}")
    return weight


def methods(deploys: Deploys) -> list[Method]:
    """The bus interface of deploys."""

    async def deploy(_: str, service: str, id_: str, weight: int, timeout_ms: int) -> list[Any]:
        await deploys.deploy(service, id_, weight, timeout_ms)
        return []

    async def route(_: str, service: str, from_id: str, to_id: str) -> list[Any]:
        await deploys.route(service, from_id, to_id)
        return []

    return [
        Method("Deploy", (*TENANT, *arguments("u weight, u timeout_ms")), (), deploy),
        Method("Route", arguments("s service, s from_id, s to_id"), (), route),
    ]
