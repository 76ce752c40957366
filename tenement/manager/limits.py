"""How many tenants run at a time: `max_running` of a service and of the host, `min_running` of a service."""

from collections import defaultdict

from tenement.lifecycle import AWAKE, State
from tenement.manager.supervisor import Supervisor, Tenant


class RunningLimits:
    """Counts who is awake. Beyond a limit the longest idle is put to sleep; one in use never is."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._awake: defaultdict[str, set[Tenant]] = defaultdict(set)

    def configure(self) -> None:
        """The limits may be others."""
        for service in self._supervisor.config.services:
            self._enforce(service)

    def changed(self, tenant: Tenant, _before: State) -> None:
        """A tenant is in another state."""
        awake = self._awake[tenant.name.service]
        if tenant.state in AWAKE:
            awake.add(tenant)
            self._enforce(tenant.name.service)
        else:
            awake.discard(tenant)

    def idle(self, tenant: Tenant) -> None:
        """A tenant has nothing to do any more."""
        self._enforce(tenant.name.service)

    def may_sleep(self, tenant: Tenant) -> bool:
        """Whether enough others of its service stay awake when this one goes to sleep for being idle."""
        service = self._supervisor.config.services.get(tenant.name.service)
        if service is None:
            return True
        staying = sum(not _leaves(other) for other in self._awake[tenant.name.service])
        return staying > service.min_running

    def _enforce(self, service_name: str) -> None:
        service = self._supervisor.config.services.get(service_name)
        if service is not None and service.max_running:
            self._expel(self._awake[service_name], service.max_running)
        limit = self._supervisor.config.settings.max_running
        if limit:
            self._expel(set().union(*self._awake.values()), limit)

    def _expel(self, awake: set[Tenant], limit: int) -> None:
        excess = sum(not _leaves(tenant) for tenant in awake) - limit
        if excess <= 0:
            return
        idle = [tenant for tenant in awake if tenant.life.idle and tenant.life.goal is None]
        idle.sort(key=lambda tenant: tenant.life.idle_since or 0.0)
        for tenant in idle[:excess]:
            self._supervisor.expel(tenant, "made room for others (max_running)")


def _leaves(tenant: Tenant) -> bool:
    """Whether a tenant that is still awake is on its way to sleep."""
    return tenant.life.goal is not None or tenant.state is State.STOPPING
