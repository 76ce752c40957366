"""Certificates: has certbot get those that are missing, one order at a time, and gives them to the workers.

certbot runs in a unit of its own, tenement-certbot.service: it needs the network and writes to
/etc/letsencrypt, and the manager may neither. Renewal is certbot.timer's. Whoever got a certificate,
certbot's deploy hook calls DeployCertificate; what it names is read, checked, and only then put where workers
read it.
"""

import asyncio
import contextlib
import json
import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tenement.errors import Conflict, InvalidConfig, InvalidName, NotFound, Overloaded
from tenement.manager.domains import Domains
from tenement.manager.supervisor import Supervisor
from tenement.names import check_domain
from tenement.systemd import Property, Systemd, SystemdError
from tenement.tls import certbot
from tenement.tls.names import LINEAGE_PREFIX, Want, lineage_name, obtainable, wanted
from tenement.tls.queue import Failure, Order, Wait, earliest, next_order, pause_s
from tenement.tls.reading import Checked, Facts, read
from tenement.tls.records import TlsRecords
from tenement.tls.selection import Certificate, Selection, covers
from tenement.tls.settings import TlsSettings
from tenement.tls.store import LINEAGES, Store, lineage_server, read_lineage

log = logging.getLogger(__name__)

UNIT: Final = "tenement-certbot.service"
OUTPUT: Final = Path("/run/tenement/certbot.log")
_PLUGINS: Final = Path("/usr/lib/python3/dist-packages")
_OWN_PREFIX: Final = "own-"
_RUN_TIMEOUT_S: Final = 900.0
_SETTLE_S: Final = 0.3
"""Names that come within this time of each other are ordered together."""

_BUSY_PAUSE_S: Final = 15.0
_UNUSED_S: Final = 86400.0
"""A certificate that nobody wants is deleted after this: the tenant may come back."""

_OVERDUE_S: Final = 2 * 86400.0
_CHALLENGES_MAX: Final = 1000
_OUTPUT_MAX: Final = 256 << 10
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{16,200}")
_VALIDATION: Final = re.compile(r"[A-Za-z0-9_.-]{16,400}")
_LINEAGE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,250}")


class _Kept(NamedTuple):
    """A certificate in the store. `server` is where certbot got it; None: it is the operator's own."""

    facts: Facts
    server: str | None


class Certificates:
    """All certificates. `announce` tells workers of changes, `reload` makes them read everything again."""

    def __init__(
        self,
        records: TlsRecords,
        systemd: Systemd,
        store: Store,
        supervisor: Supervisor,
        announce: Callable[[dict[str, Any]], None],
        reload: Callable[[], None],
    ) -> None:
        self._records = records
        self._systemd = systemd
        self._store = store
        self._supervisor = supervisor
        self._announce = announce
        self._reload = reload
        self.domains = Domains(records, supervisor, announce, self.names_changed)
        self._settings = records.settings()
        self._failures = records.failures()
        self._kept: dict[str, _Kept] = {}
        self._faults: dict[str, str] = {}
        self._served: dict[str, Certificate] = {}
        self._selection = Selection({})
        self._unused: dict[str, float] = {}
        self._challenges: dict[str, str] = {}
        self._ordering: frozenset[str] = frozenset()
        self._certbot = asyncio.Lock()
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load what is kept, and begin to order what is missing."""
        if self._settings is not None:
            await self._begin()

    async def close(self) -> None:
        """Stop ordering; a certbot that runs goes on, and its deploy hook will find the next manager."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

    def names_changed(self) -> None:
        """Tenants, services or domains came or went."""
        self._wake.set()

    # For the workers

    def document(self) -> dict[str, Any]:
        """What the routes document has of TLS."""
        settings = self._settings
        bases = filter(obtainable, self._supervisor.config.settings.domains)
        policy = {"enabled": settings is not None, "default": next(bases, None)}
        return {
            "tls": policy | ({"hsts_s": settings.hsts_s} if settings else {}),
            "certificates": msgspec.to_builtins(self._served),
            "challenges": self._challenges,
        }

    def url(self, url: str) -> str:
        """The address of a tenant, by HTTPS as soon as its host has a certificate."""
        host = url.removeprefix("http://").rstrip("/")
        served = self._selection.find(host) is not None
        return f"https://{host}/" if served else url

    # What operators ask

    async def enable(self, text: str) -> None:
        """Serve TLS, with settings as JSON. Raises InvalidConfig, Conflict."""
        settings = TlsSettings.decode(text)
        _check_programs(settings)
        config = self._supervisor.config
        if not any(map(obtainable, (*config.settings.domains, *config.routing.hosts, *self.domains.owners))):
            raise Conflict(
                f"no authority gives certificates for {', '.join(config.settings.domains)}. "
                "Set domain in [settings] of /etc/tenement/tenement.toml to a name that leads to this server."
            )
        self._records.set_settings(msgspec.json.encode(settings).decode())
        self._settings = settings
        for name in list(self._failures):
            self._forget_failure(name)
        await self._begin()
        self._reload()

    def disable(self) -> None:
        """Serve plain HTTP again. Certificates are kept, and go on to be renewed."""
        self._records.set_settings(None)
        self._settings = None
        self._served = {}
        self._selection = Selection({})
        self._reload()

    def retry(self, text: str) -> None:
        """Order a name again now, or all for ""; raises NotFound if it is not missing."""
        name = check_domain(text.removeprefix("*.")) if text else ""
        found = [each for each in self._failures if name in ("", each, each.removeprefix("*."))]
        if name and not found:
            raise NotFound(f"{name}: is not waiting for a certificate. See 'ten tls status'")
        for each in found:
            self._forget_failure(each)
        self._wake.set()

    async def replace(self, text: str) -> None:
        """Get a new certificate and key for a name, and revoke the old one. Raises NotFound, Conflict."""
        settings = self._settings
        key = next((key for key, kept in self._kept.items() if text in kept.facts.names), None)
        if settings is None or key is None or not key.startswith(LINEAGE_PREFIX):
            raise NotFound(f"{text}: has no certificate from certbot. See 'ten tls status'")
        names = self._kept[key].facts.names
        want = next((want for want in self._wants() if want.name in names), None)
        order = Order(names, want is not None and want.dns, want.group if want else text)
        old = await asyncio.to_thread(lambda: (LINEAGES / key / "cert.pem").resolve())
        version = self._kept[key].facts.version
        command = certbot.issue(settings, key, order, force=True, new_key=True)
        async with self._certbot:
            done, output = await self._run(command)
        if done:
            await self.deploy(key)
        if not done or self._kept[key].facts.version == version:
            raise Conflict(f"{text}: no new certificate: {certbot.reasons(output, [text])[text]}")
        async with self._certbot:
            done, output = await self._run(certbot.revoke(settings, str(old)))
        if not done:
            raise Conflict(f"{text}: replaced, but not revoked: {certbot.reasons(output, [text])[text]}")

    async def deploy(self, lineage: str) -> None:
        """Use what certbot has under this name from now on. Raises InvalidConfig; then the old one stays."""
        if not _LINEAGE.fullmatch(lineage):
            raise InvalidName.of("certificate", lineage, "is none of certbot's names")
        try:
            checked = await asyncio.to_thread(read_lineage, lineage)
        except InvalidConfig as error:
            self._faults[lineage] = str(error)
            log.error("%s; the certificate before it stays in use", error)
            raise
        self._keep(lineage, checked, await asyncio.to_thread(lineage_server, lineage) or "")

    def own(self, name: str, chain: str, key: str) -> None:
        """Use a certificate of the operator's own. Raises InvalidConfig, Conflict, InvalidName."""
        if not _LINEAGE.fullmatch(name):
            raise InvalidName.of("certificate", name, "may hold only letters, digits, '.', '_' and '-'")
        if self._settings is None:
            raise Conflict("TLS is not enabled. Run 'ten tls enable'")
        self._keep(_OWN_PREFIX + name, read(chain, key, name), None)

    def drop(self, name: str) -> None:
        """Use a certificate of the operator's own no more. Raises NotFound."""
        if self._kept.pop(_OWN_PREFIX + name, None) is None:
            raise NotFound(f"{name}: is no certificate of your own. See 'ten tls status'")
        self._store.remove(_OWN_PREFIX + name)
        self._serve()
        self._wake.set()

    def set_challenge(self, token: str, validation: str) -> None:
        """Have workers answer a challenge; with an empty validation no more. Raises InvalidName."""
        if not _TOKEN.fullmatch(token) or (validation and not _VALIDATION.fullmatch(validation)):
            raise InvalidName.of("challenge", token, "is not as RFC 8555 has them")
        if not validation:
            self._challenges.pop(token, None)
        elif len(self._challenges) >= _CHALLENGES_MAX:
            raise Overloaded(f"there are {_CHALLENGES_MAX} challenges already", retry_after_s=60.0)
        else:
            self._challenges[token] = validation
        self._announce({"challenges": {token: validation or None}})

    def status(self) -> str:
        """A JSON object: whether TLS is enabled, and each name with its certificate or why it has none."""
        settings = self._settings
        if settings is None:
            return json.dumps({"enabled": False, "names": []})
        now = time.time()
        names = [self._named(want, settings, now) for want in self._wants()]
        own = [
            _certificate(name, key, kept, now)
            for key, kept in self._kept.items()
            if key.startswith(_OWN_PREFIX)
            for name in kept.facts.names
        ]
        return json.dumps(
            {
                "enabled": True,
                "server": settings.server,
                "email": settings.email,
                "dns": settings.dns,
                "hsts_s": settings.hsts_s,
                "names": names + own,
                "faults": self._faults,
            }
        )

    # Private: what there is

    async def _begin(self) -> None:
        if self._worker is None:
            for key, found, server in await asyncio.to_thread(_load, self._store):
                if isinstance(found, InvalidConfig):
                    self._faults[key] = str(found)
                    log.error("%s; it is not used", found)
                else:
                    self._kept[key] = _Kept(found, server)
            self._worker = asyncio.create_task(self._work())
        self._serve()
        self._wake.set()

    def _wants(self) -> list[Want]:
        dns = self._settings is not None and self._settings.dns is not None
        supervisor = self._supervisor
        return wanted(supervisor.config, supervisor.tenants, self.domains.owners, dns=dns)

    def _holder(self, want: Want, now: float) -> str | None:
        """The certificate that serves a name as it should: valid, and from the authority that is set."""
        assert self._settings is not None
        right = (None, self._settings.server)
        return next(
            (
                key
                for key, kept in self._kept.items()
                if kept.server in right
                and kept.facts.expires_at > now
                and covers(kept.facts.names, want.name)
                and (not want.name.startswith("*.") or want.name in kept.facts.names)
            ),
            None,
        )

    def _missing(self, wants: Sequence[Want], now: float) -> list[Want]:
        """As `_holder` is None, but for many names at once."""
        assert self._settings is not None
        right = (None, self._settings.server)
        have = {
            name
            for kept in self._kept.values()
            if kept.server in right and kept.facts.expires_at > now
            for name in kept.facts.names
        }
        return [
            want
            for want in wants
            if want.name not in have
            and (want.name.startswith("*.") or "*." + want.name.partition(".")[2] not in have)
        ]

    def _keep(self, key: str, checked: Checked, server: str | None) -> None:
        """Put a checked certificate where workers read it, and tell them."""
        self._faults.pop(key, None)
        before = self._kept.get(key)
        if before is not None and before.facts.version == checked.facts.version:
            self._kept[key] = _Kept(checked.facts, server)
            return
        self._store.put(key, checked)
        self._kept[key] = _Kept(checked.facts, server)
        log.info("certificate %s: %s, by %s", key, ", ".join(checked.facts.names), checked.facts.issuer)
        if self._settings is not None:
            self._serve()
        self._wake.set()

    def _serve(self, wanted_now: Sequence[Want] | None = None) -> None:
        """Tell workers which certificates there are now, each for the names that are still wanted."""
        wants = {want.name for want in (self._wants() if wanted_now is None else wanted_now)}
        served = {}
        for key, kept in self._kept.items():
            facts = kept.facts
            names = tuple(name for name in facts.names if kept.server is None or name in wants)
            if names:
                path = str(self._store.path(key))
                served[key] = Certificate(names, path, facts.version, facts.issued_at)
        before, self._served = self._served, served
        change = {
            key: served.get(key)
            for key in served.keys() | before.keys()
            if served.get(key) != before.get(key)
        }
        if change:
            self._selection = Selection(served)
            self._announce({"certificates": msgspec.to_builtins(change)})

    def _named(self, want: Want, settings: TlsSettings, now: float) -> dict[str, Any]:
        """What `status` says of one name."""
        failure = self._failures.get(want.name)
        key = self._holder(want, now)
        if key is not None:
            entry = _certificate(want.name, key, self._kept[key], now)
            entry["error"] = self._faults.get(key) or entry["error"]
            return entry
        at = earliest(want, self._failures, self._issued(), settings.weekly_limit, now)
        state = "failed" if failure and failure.times else "limited" if at > now else "waiting"
        return {
            "name": want.name,
            "state": "ordering" if want.name in self._ordering else state,
            "error": failure.reason if failure else None,
            "failures": failure.times if failure else 0,
            "retry_at": at if at > now else None,
        }

    # Private: getting what is missing

    async def _work(self) -> None:
        """Order what is missing, one certificate after the other."""
        while True:
            self._wake.clear()
            timeout_s: float | None = None
            try:
                timeout_s = await self._step()
            except (SystemdError, OSError) as error:
                # A timeout is an OSError too.
                log.error("certbot cannot be run, trying again in %g s: %s", _BUSY_PAUSE_S, error)
                timeout_s = _BUSY_PAUSE_S
            if timeout_s == 0:
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            await asyncio.sleep(_SETTLE_S)

    async def _step(self) -> float | None:
        """Do one thing; seconds until the next one, None if there is none before something changes."""
        settings = self._settings
        if settings is None:
            return None
        wants = self._wants()
        self._serve(wants)
        now = time.time()
        missing = self._missing(wants, now)
        names = {want.name for want in wants}
        for name in [name for name in self._failures if name not in names]:
            self._forget_failure(name)
        step = next_order(missing, self._failures, self._issued(), settings.weekly_limit, now)
        if isinstance(step, Order):
            return await self._obtain(settings, step)
        idle_s = await self._tidy(now)
        waits = [idle_s] if idle_s is not None else []
        if isinstance(step, Wait):
            waits.append(step.until - now)
        return max(0.1, min(waits)) if waits else None

    async def _obtain(self, settings: TlsSettings, order: Order) -> float:
        """Order one certificate; seconds until the next step."""
        key = lineage_name(order.names[0])
        kept = self._kept.get(key)
        if kept is not None and not order.dns:
            # The names that it serves now must not be lost.
            served = self._served[key].names if key in self._served else ()
            order = order._replace(names=tuple(dict.fromkeys((*order.names, *served))))
        other = kept is not None and kept.server != settings.server
        self._ordering = frozenset(order.names)
        log.info("ordering a certificate for %s", ", ".join(order.names))
        try:
            async with self._certbot:
                command = certbot.issue(settings, key, order, force=other, new_key=False)
                done, output = await self._run(command)
            if certbot.BUSY in output:
                return _BUSY_PAUSE_S
            if done:
                with contextlib.suppress(InvalidConfig):
                    await self.deploy(key)
            self._note(order, key, output)
        finally:
            self._ordering = frozenset()
        return 0

    def _note(self, order: Order, key: str, output: str) -> None:
        """Remember which names of an order were not got, and why."""
        now = time.time()
        got = self._kept.get(key)
        right = got is not None and self._settings is not None and got.server == self._settings.server
        names = got.facts.names if got is not None and right else ()
        for name in set(order.names) & set(names):
            self._forget_failure(name)
        lost = [name for name in order.names if name not in names]
        if not lost:
            return
        fault = self._faults.get(key)
        reasons = dict.fromkeys(lost, fault) if fault else certbot.reasons(output, lost)
        until = certbot.rate_limited_until(output, now)
        if until is not None:
            # Nobody of this group need ask before.
            lost = [want.name for want in self._missing(self._wants(), now) if want.group == order.group]
            log.warning(
                "the authority has had enough orders for %s: %s", order.group, next(iter(reasons.values()))
            )
        for name in lost:
            count = self._failures[name].times if name in self._failures else 0
            reason = reasons.get(name) or next(iter(reasons.values()))
            if until is None:
                count += 1
                log.warning("no certificate for %s: %s", name, reason)
            failure = Failure(count, until if until is not None else now + pause_s(count), reason)
            self._failures[name] = failure
            self._records.set_failure(name, failure)

    async def _tidy(self, now: float) -> float | None:
        """Delete certificates that nobody has wanted for a while; seconds until the next may go."""
        unused = {key for key in self._kept if key not in self._served and key.startswith(LINEAGE_PREFIX)}
        self._unused = {key: self._unused.get(key, now) for key in unused}
        for key, since in list(self._unused.items()):
            if now - since < _UNUSED_S:
                continue
            async with self._certbot:
                done, output = await self._run(certbot.delete(key))
            if not done and certbot.BUSY in output:
                return _BUSY_PAUSE_S
            log.info("certificate %s: deleted, nobody has wanted it for a day", key)
            self._store.remove(key)
            del self._kept[key], self._unused[key]
        return min((since + _UNUSED_S - now for since in self._unused.values()), default=None)

    async def _run(self, command: list[str]) -> tuple[bool, str]:
        """Run certbot in its unit: whether it succeeded, what it printed. Raises SystemdError, OSError."""
        OUTPUT.touch(mode=0o600)
        job = await self._systemd.start_transient(UNIT, _unit(command))
        result = await job.result(_RUN_TIMEOUT_S + 30)
        output = await asyncio.to_thread(OUTPUT.read_bytes)
        return result == "done", output[-_OUTPUT_MAX:].decode(errors="replace")

    def _issued(self) -> dict[str, list[float]]:
        """When the certificates of each group were got."""
        bases = self._supervisor.config.settings.domains
        issued: dict[str, list[float]] = defaultdict(list)
        for kept in self._kept.values():
            if kept.server is not None:
                name = kept.facts.names[0].removeprefix("*.")
                group = next((base for base in bases if name == base or name.endswith("." + base)), name)
                issued[group].append(kept.facts.issued_at)
        return issued

    def _forget_failure(self, name: str) -> None:
        if self._failures.pop(name, None) is not None:
            self._records.clear_failure(name)


def _load(store: Store) -> list[tuple[str, Facts | InvalidConfig, str | None]]:
    """Every certificate that is kept, and where certbot got it; None: it is the operator's own."""
    return [
        (key, found, None if key.startswith(_OWN_PREFIX) else lineage_server(key) or "")
        for key, found in store.load()
    ]


def _check_programs(settings: TlsSettings) -> None:
    """Whether certbot and its plugin are installed. Raises Conflict."""
    if not Path(certbot.PROGRAM).exists():
        raise Conflict("certbot is not installed. Run: apt install certbot")
    if settings.dns is not None and not (_PLUGINS / f"certbot_dns_{settings.dns}").is_dir():
        package = f"python3-certbot-dns-{settings.dns}"
        raise Conflict(f"certbot has no plugin for {settings.dns} here. Run: apt install {package}")


def _certificate(name: str, key: str, kept: _Kept, now: float) -> dict[str, Any]:
    """What `status` says of a name that has a certificate."""
    facts = kept.facts
    overdue = kept.server is not None and now > facts.renewed_at + _OVERDUE_S
    return {
        "name": name,
        "state": "valid" if facts.expires_at > now else "expired",
        "certificate": key,
        "issuer": facts.issuer,
        "expires_at": facts.expires_at,
        "days_left": int((facts.expires_at - now) // 86400),
        "renewal_at": facts.renewed_at if kept.server is not None else None,
        "error": "its renewal is overdue: see 'journalctl -u certbot'" if overdue else None,
    }


def _unit(command: list[str]) -> list[Property]:
    """The properties of certbot's unit."""
    return [
        Property("Description", "s", "Tenement: certbot"),
        Property("Type", "s", "oneshot"),
        Property("ExecStart", "a(sasb)", [[command[0], command, False]]),
        Property("CollectMode", "s", "inactive-or-failed"),
        Property("CPUWeight", "t", 50),
        Property("Environment", "as", ["LC_ALL=C.UTF-8"]),
        Property("LockPersonality", "b", True),
        Property("PrivateTmp", "b", True),
        Property("ProtectControlGroups", "b", True),
        Property("ProtectKernelModules", "b", True),
        Property("ProtectKernelTunables", "b", True),
        # Certificates go to /etc/letsencrypt, so no more than /usr can be read-only.
        Property("ProtectSystem", "s", "yes"),
        # What it prints says why a name was refused; its own log, in /var/log/letsencrypt, says the rest.
        Property("StandardOutputFileToTruncate", "s", str(OUTPUT)),
        Property("StandardError", "s", "inherit"),
        Property("TimeoutStartUSec", "t", int(_RUN_TIMEOUT_S * 1_000_000)),
    ]
