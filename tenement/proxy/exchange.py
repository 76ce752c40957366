"""One request's life: from its head to the last byte of its answer.

    route -> limits -> lease -> connection -> request out, answer back -> lease and connection returned

Everything happens in callbacks, from the client's side (`server`) and the app's (`upstream`); a request that
finds its lease and a connection waiting needs no task. What comes next is decided by few facts: whether the
request is all there (`request_done`), whether the answer has begun (`_begun`), and whether all is over
(`_over`). Until the answer has begun a fault becomes an answer; afterwards the connection to the client
breaks off, so that it can tell.
"""

import logging
from time import monotonic
from typing import TYPE_CHECKING, Final

from tenement.errors import TenementError
from tenement.proxy import date
from tenement.proxy.access import Entry
from tenement.proxy.framing import UNTIL_CLOSE, BadFraming, Chunked, Framing, of_body
from tenement.proxy.hosts import BadHost
from tenement.proxy.lease import Lease
from tenement.proxy.limits import Gate
from tenement.proxy.policy import Policy
from tenement.proxy.request_head import RequestHead
from tenement.proxy.response_head import ResponseHead
from tenement.proxy.routes import Root, Service, Tenant
from tenement.proxy.tunnels import CLOSE_GOING_AWAY
from tenement.proxy.upstream import UpstreamConnection, UpstreamPool

if TYPE_CHECKING:
    from tenement.proxy.server import ClientConnection
    from tenement.proxy.worker import Worker

log = logging.getLogger(__name__)

_MAX_ATTEMPTS: Final = 3
_OVERLOADED_RETRY_S: Final = 1.0
_GONE_AWAY: Final = 499
_NEVER: Final = float("inf")
_DEFAULT_POLICY: Final = Policy()


class Exchange:
    """One request and its answer."""

    # What most requests never change lives in the class: making one has to be cheap.
    takes_body = False
    tunnel = False
    _leaseless = False
    _held_back = b""
    _request_id = b""
    _tenant: Tenant | None = None
    _target_name = ""
    _policy = _DEFAULT_POLICY
    _lease: Lease[UpstreamPool] | None = None
    _upstream: UpstreamConnection | None = None
    _gate: Gate | None = None
    _request: Framing | None = None
    _received = 0
    _window_at = 0.0
    _window_bytes = 0
    _waiting = False
    _begun = False
    _over = False
    _closes = False
    _retried = False
    _half_closed = False
    _attempts = 0
    _status = 0
    _sent = 0
    _answer_length = 0
    _deadline = _NEVER
    _page_at = _NEVER
    _silent_since = _NEVER
    _paused_since = _NEVER

    def __init__(self, worker: "Worker", client: "ClientConnection", head: RequestHead) -> None:
        self.head = head
        self.request_done = head.fields.length == 0
        self._worker = worker
        self._client = client
        self._added = client.hsts
        self._started = monotonic()

    @property
    def decodes_chunks(self) -> bool:
        """See upstream.Answered."""
        return self.head.minor == 0

    def begin(self) -> None:
        """Find the target and go as far as nothing has to be waited for."""
        head = self.head
        worker = self._worker
        self._request_id = head.fields.request_id or worker.next_request_id()
        client = self._client
        if (aside := client.guard.check(head, client.trusted)) is not None:
            self.answer(aside.status, fields=aside.fields, body=aside.body)
            return
        try:
            target = worker.table.find(head.fields.host, head.target)
        except BadHost as error:
            self.answer(400, detail=str(error), close=True)
            return
        if not isinstance(target, Tenant):
            if target is None:
                if (service := worker.table.service_above(head.fields.host)) is not None:
                    self._policy = service.policy
                self.answer(404)
                return
            if isinstance(target, Root):
                self._begin_root(target)
                return
            self._policy = target.policy
            chosen = self._choose(target)
            if chosen is None:
                self.answer(503, retry_after_s=_OVERLOADED_RETRY_S)
                return
            target = chosen
        self._tenant = target
        self._target_name = target.name
        self._policy = target.policy
        if not target.enabled:
            self.answer(503)
            return
        if head.end > target.policy.max_header_bytes > 0:
            self.answer(431, close=True)
            return
        if target.limited and not self._within_limits(target):
            return
        lease = worker.leases.held.get(target.name)
        if lease is None:
            worker.watch()
            self._waiting = True
            if target.policy.waiting_page and self._is_navigation():
                self._page_at = self._started + worker.settings.waiting_page_s
            worker.leases.wait(target, self)
            return
        lease.active += 1
        self._lease = lease
        self._send(lease)

    # What the client's connection calls

    def client_body(self, data: bytes) -> bytes:
        """Pass on some of the request's body; what follows the request is given back."""
        framing = self._request
        assert framing is not None and self._upstream is not None
        try:
            passed, rest = framing.feed(data)
        except BadFraming as error:
            self._fail(400, detail=f"The request's body is malformed: {error}")
            return b""
        if isinstance(framing, Chunked) and framing.payload_bytes > self._policy.max_body_bytes > 0:
            self._fail(413)
            return b""
        self._received += len(passed)
        if framing.done:
            self.request_done = True
            self.takes_body = False
            self._await_answer()
        if passed:
            self._upstream.write(passed)
        return rest

    def client_sent(self, data: bytes) -> None:
        """Pass on bytes of an upgraded connection."""
        assert self._upstream is not None
        if self._leaseless and (self._held_back or not self._renews()):
            self._held_back = b"%b%b" % (self._held_back, data)
            return
        self._upstream.write(data)
        if self._half_closed:
            self._silent_since = self._worker.now

    def client_ended(self) -> bool:
        """The client closed its direction. Whether the other one stays open."""
        if self.tunnel and self._upstream is not None:
            if self._half_closed:
                self._finish_tunnel()
                return False
            self._half_closed = True
            self._silent_since = monotonic()
            self._upstream.write_eof()
            return True
        if not self.request_done:
            return False
        self._half_closed = True
        self._silent_since = monotonic()
        return True

    def client_lost(self) -> None:
        """The client is gone: so is everything done for it."""
        if not self._over:
            self._status = self._status or _GONE_AWAY
            self._let_go(reusable=False)

    def client_paused(self) -> None:
        """The client takes nothing more for now: neither do we from the app."""
        self._paused_since = monotonic()
        if self._upstream is not None:
            self._upstream.pause()

    def client_resumed(self) -> None:
        """The client takes more."""
        self._paused_since = _NEVER
        if self._upstream is not None:
            self._upstream.resume()

    def sweep(self, now: float) -> None:
        """Look at the deadlines."""
        settings = self._worker.settings
        if now >= self._deadline:
            self._deadline = _NEVER
            self._fail(504)
        elif self._waiting and now >= self._page_at:
            self._answer_waiting()
        elif not self.request_done and self._client.is_gone:
            self._client.abort()
        elif self.takes_body and not self._begun:
            self._check_progress(now)
        elif now - self._paused_since >= settings.stalled_client_s:
            self._break_off()
        elif self._half_closed:
            limit_s = settings.tunnel_half_closed_s if self.tunnel else settings.half_closed_s
            if now - self._silent_since >= limit_s:
                self._break_off()

    # What the leases call

    def lease_granted(self, lease: Lease[UpstreamPool]) -> None:
        """See leases.Waiter."""
        self._waiting = False
        if self._leaseless:
            self._worker.leases.finish(lease, monotonic())
            self._client.resume_body()
            held_back, self._held_back = self._held_back, b""
            self.client_sent(held_back)
            return
        self._lease = lease
        self._send(lease)

    def lease_failed(self, error: TenementError) -> None:
        """See leases.Waiter."""
        self._waiting = False
        log.info("%s: no lease: %s", self._target_name, error)
        if self._leaseless:
            self.go_away()
            return
        status = error.http_status
        retry_after_s = error.retry_after_s
        if status in (502, 503, 504) and retry_after_s is None and error.code != "Disabled":
            retry_after_s = _OVERLOADED_RETRY_S
        self.answer(status, retry_after_s=retry_after_s)

    # What the connection to the app calls; see upstream.Answered

    def connected(self, connection: UpstreamConnection) -> None:
        """A connection is there: send the request on it."""
        if self._over:
            connection.end(monotonic(), reusable=True)
            return
        head = self.head
        self._upstream = connection
        connection.begin(
            self,
            self._client.relay(head, self._request_id),
            to_head=head.method == b"HEAD",
        )
        if self._paused_since != _NEVER:
            connection.pause()
        if self.request_done:
            if self._policy.request_timeout_s:
                self._deadline = self._started + self._policy.request_timeout_s
        else:
            self._request = of_body(head.fields.length)
            self._received = 0
            self._window_at, self._window_bytes = monotonic(), 0
            self.takes_body = True
            self._client.feed_body()

    def connect_failed(self, error: OSError | TimeoutError) -> None:
        """No connection: nothing of the request was sent, so another lease may do better."""
        if self._over:
            return
        lease = self._lease
        assert lease is not None
        log.info("%s: no connection to %s: %s", self._target_name, lease.address, error)
        if self._tenant is None or not isinstance(error, (ConnectionError, FileNotFoundError)):
            self.answer(502 if self._tenant is not None else 503)
            return
        self._try_another_lease(self._tenant, lease, "refused")

    def answer_interim(self, head: ResponseHead, data: bytes) -> None:
        """Pass on 100, 103 and the like, to those who may know them."""
        if self.head.minor == 1:
            self._write(data if head.verbatim else b"%b\r\n\r\n" % head.relay(data))

    def answer_switches(self, head: ResponseHead, data: bytes, rest: bytes) -> None:
        """The app upgrades the connection: from here on bytes pass both ways."""
        asked = {each.strip() for each in self.head.fields.upgrade.split(b",") if each.strip()}
        if not head.upgrade or not {each.strip() for each in head.upgrade.split(b",")} <= asked:
            self.answer_broken("it switches to a protocol that was not asked for")
            return
        self._status = 101
        self._begun = True
        self.tunnel = True
        self._deadline = _NEVER
        self._closes = True
        self._write(b"%b%b" % (data, rest))
        early = self._client.take_buffered()
        if early and self._upstream is not None:
            self._upstream.write(early)
        if self._policy.idle_ignores_upgrades and self._lease is not None:
            lease, self._lease, self._leaseless = self._lease, None, True
            self._worker.tunnels.add(self._target_name, self)
            self._worker.leases.finish(lease, monotonic())

    def answer_whole(self, head: ResponseHead, data: bytes, reusable: bool) -> None:
        """Pass on an answer that has come at once."""
        self._status = head.status
        self._begun = True
        self._closes = closes = self._closes_after_whole()
        if closes or self._added or not (head.verbatim and head.dated and self.head.minor):
            data = b"%b%b" % (self._head_to_client(head, data[: head.end]), data[head.end :])
        self._sent += len(data)
        self._client.write(data)
        self._finish(reusable)

    def answer_begins(self, head: ResponseHead, data: bytes) -> None:
        """Pass on the head of an answer."""
        self._status = head.status
        self._begun = True
        self._deadline = _NEVER
        self._closes = self._closes_after(head)
        self._answer_length = head.length
        self._write(self._head_to_client(head, data))

    def answer_continues(self, data: bytes) -> None:
        """Pass on some of the body."""
        self._write(data)

    def answer_ends(self, data: bytes, reusable: bool) -> None:
        """Pass on the last of the body."""
        if data:
            self._write(data)
        self._finish(reusable)

    def answer_broken(self, reason: str) -> None:
        """An answer that must not be passed on."""
        log.warning(
            "%s: the app's answer to %s is refused: %s", self._target_name, self.head.method.decode(), reason
        )
        self._fail(502)

    def app_lost(self, error: Exception | None) -> None:
        """The connection to the app ended too early."""
        upstream, lease = self._upstream, self._lease
        if self._over or upstream is None or lease is None:
            return
        if self.tunnel:
            self._finish_tunnel()
            return
        self._upstream = None
        reused = upstream.uses > 1
        if reused and not upstream.heard and not self._retried and self.head.safe_to_repeat:
            self._retried = True  # The app closed an idle connection just then; see `upstream`.
            self._deadline = _NEVER
            lease.pool.connect(self)
            return
        log.info(
            "%s: the app closed the connection before the end of its answer: %s", self._target_name, error
        )
        if not reused and not upstream.heard and self._tenant is not None:
            if isinstance(error, ConnectionResetError) and self.head.safe_to_repeat:
                # It died with the connection in its backlog, or with the request unread.
                self._deadline = _NEVER
                self._try_another_lease(self._tenant, lease, "reset")
                return
            if not lease.retired:
                self._worker.leases.report(lease, "reset")
        self._fail(503 if isinstance(error, ConnectionAbortedError) else 502)

    def app_sent(self, data: bytes) -> None:
        """Pass on bytes of an upgraded connection."""
        self._write(data)

    def app_ended(self) -> None:
        """The app closed its direction of an upgraded connection."""
        if self._half_closed:
            self._finish_tunnel()
            return
        self._half_closed = True
        self._silent_since = monotonic()
        self._client.write_eof()

    def app_paused(self) -> None:
        """The app takes no more of the request for now."""
        if self._request is not None:
            self._window_at = monotonic()
        self._client.pause_body()

    def app_resumed(self) -> None:
        """The app takes more of the request."""
        if self._request is not None:
            self._window_at, self._window_bytes = monotonic(), self._received
        self._client.resume_body()

    def go_away(self) -> None:
        """See tunnels.Tunnel."""
        if b"websocket" in self.head.fields.upgrade.lower():
            self._write(CLOSE_GOING_AWAY)
        self._finish_tunnel()

    # Private: the way to the app

    def _try_another_lease(self, tenant: Tenant, lease: Lease[UpstreamPool], what: str) -> None:
        """The app took no request from this lease: the manager finds out why, and gives one that works."""
        self._worker.leases.refused(lease, what)
        self._attempts += 1
        if self._attempts >= _MAX_ATTEMPTS:
            self.answer(502)
            return
        self._lease = None
        self._worker.leases.finish(lease, monotonic())
        self._waiting = True
        self._worker.leases.wait(tenant, self)

    def _renews(self) -> bool:
        """Whether there is a lease on the tenant, which lasts on; asks for one if there is none."""
        lease = self._worker.leases.held.get(self._target_name)
        if lease is not None:
            lease.idle_since = monotonic()
            return True
        if not self._waiting and self._tenant is not None:
            self._waiting = True
            self._client.pause_body()
            self._worker.leases.wait(self._tenant, self)
        return False

    def _begin_root(self, root: Root) -> None:
        """Send a request to tenement's own API: no tenant, no lease."""
        self._target_name = root.name
        self._policy = root.policy
        self._worker.watch()
        lease = self._worker.leases.fixed(root.name, root.address)
        lease.active += 1
        self._lease = lease
        self._send(lease)

    def _choose(self, service: Service) -> Tenant | None:
        """The tenant of a service for this request: the visitor's, or one by weight, or None."""
        sticky = self._worker.sticky
        if not (service.policy.sticky and sticky):
            return service.choose_at_random()
        id_ = sticky.read(self.head.fields.cookies, service.name)
        tenant = service.members.get(id_) if id_ is not None else None
        if tenant is not None and tenant.enabled and tenant.weight > 0 and not tenant.sick:
            return tenant
        tenant = service.choose_at_random()
        if tenant is not None:
            value = sticky.cookie(service.name, tenant.id, secure=self._client.secure)
            self._added = b"%b\r\nSet-Cookie: %b" % (self._added, value)
        return tenant

    def _is_navigation(self) -> bool:
        """Whether a person waits for a page; anything else would take the waiting page for its answer."""
        return self.head.method == b"GET" and "text/html" in self.head.fields.accept

    def _answer_waiting(self) -> None:
        """Show the page that comes again until the tenant is awake. The start goes on meanwhile."""
        assert self._tenant is not None
        self._waiting = False
        self._worker.leases.give_up(self._tenant, self, returns=True)
        page = self._worker.pages.waiting(self._request_id, self._policy.error_pages)
        fields = b"Content-Type: text/html; charset=utf-8\r\n"
        self.answer(503, retry_after_s=_OVERLOADED_RETRY_S, fields=fields, body=page)

    def _within_limits(self, tenant: Tenant) -> bool:
        """Check what the service limits; answers if a limit is reached."""
        policy = tenant.policy
        if self.head.fields.length > policy.max_body_bytes > 0:
            self.answer(413)
            return False
        if not (policy.max_requests or policy.rate_limit_rps):
            return True
        gate = self._worker.gates.of(tenant.name, self._started, policy.rate_limit_rps)
        if gate.in_flight >= policy.max_requests > 0:
            self.answer(503, retry_after_s=_OVERLOADED_RETRY_S)
            return False
        if policy.rate_limit_rps and (wait_s := gate.take(self._started, policy.rate_limit_rps)):
            self.answer(429, retry_after_s=wait_s)
            return False
        gate.in_flight += 1
        self._gate = gate
        return True

    def _send(self, lease: Lease[UpstreamPool]) -> None:
        """Send the request on a pooled connection, or on a new one."""
        connection = lease.pool.take(self._started, repeatable=self.head.safe_to_repeat)
        if connection is None:
            lease.pool.connect(self)
        else:
            self.connected(connection)

    def _await_answer(self) -> None:
        """All of the request is sent: the answer has to begin within request_timeout."""
        if not self._begun and self._policy.request_timeout_s:
            self._deadline = monotonic() + self._policy.request_timeout_s

    def _check_progress(self, now: float) -> None:
        """Refuse a body that trickles; a client that we hold back ourselves is not blamed."""
        settings = self._worker.settings
        if self._client.body_is_paused:
            if now - self._window_at >= settings.stalled_app_s:
                self._fail(504)
            return
        if now - self._window_at < settings.body_window_s:
            return
        slow = self._received - self._window_bytes < settings.body_window_bytes
        if slow and not self.head.fields.expects_continue:
            self._fail(408)
            return
        self._window_at, self._window_bytes = now, self._received

    # Private: the way back

    def _write(self, data: bytes) -> None:
        self._sent += len(data)
        self._client.write(data)
        if self._half_closed:
            self._silent_since = monotonic()

    def _closes_after(self, head: ResponseHead) -> bool:
        """Whether the client's connection ends with this answer."""
        unframed = head.length == UNTIL_CLOSE or (self.head.minor == 0 and head.length < 0)
        return unframed or self._closes_after_whole()

    def _closes_after_whole(self) -> bool:
        """Whether the client's connection ends with an answer that says how long it is."""
        return not self.head.fields.keep_alive or not self.request_done or self._worker.draining

    def _head_to_client(self, head: ResponseHead, data: bytes) -> bytes:
        """The answer's head with this hop's own fields, where they are needed.

        They come last: an app's own Strict-Transport-Security counts (RFC 6797, 8.1).
        """
        added = self._added if head.dated else b"%b%b" % (date.field(), self._added)
        if self._closes:
            framed = self.head.minor == 1 or head.length >= 0
            return b"%b%b\r\nConnection: close\r\n\r\n" % (head.relay(data, framed=framed), added)
        if self.head.minor == 0:
            return b"%b%b\r\nConnection: keep-alive\r\n\r\n" % (head.relay(data), added)
        if head.verbatim:
            return b"%b%b\r\n\r\n" % (data[:-4], added) if added else data
        return b"%b%b\r\n\r\n" % (head.relay(data), added)

    def answer(
        self,
        status: int,
        *,
        retry_after_s: float | None = None,
        close: bool = False,
        detail: str = "",
        fields: bytes = b"",
        body: bytes | None = None,
    ) -> None:
        """Answer in the app's place."""
        head = self.head
        self._status = status
        self._begun = True
        self._closes = close or not self.request_done or not head.fields.keep_alive or self._worker.draining
        self._write(
            self._worker.pages.answer(
                status,
                accept=head.fields.accept,
                request_id=self._request_id,
                retry_after_s=retry_after_s,
                close=self._closes,
                keep_alive=head.minor == 0 and not self._closes,
                to_head=head.method == b"HEAD",
                detail=detail,
                fields=fields,
                added=self._added,
                body=body,
                own=self._policy.error_pages,
            )
        )
        self._finish(False)

    def _fail(self, status: int, detail: str = "") -> None:
        """End with an answer if none has begun, or break off the one that has."""
        if self._over:
            return
        if self._begun:
            self._break_off()
        else:
            self.answer(status, detail=detail, close=status == 400)

    def _break_off(self) -> None:
        """End in a way that the client cannot take for a complete answer."""
        ambiguous = self._answer_length == UNTIL_CLOSE and not self.tunnel
        self._let_go(reusable=False)
        self._client.break_off(reset=ambiguous)

    def _finish(self, reusable: bool) -> None:
        """End an exchange whose answer is complete."""
        unread = not self.request_done
        self._let_go(reusable=reusable and not unread)
        self._client.finished(keep_alive=not self._closes, unread=unread)

    def _finish_tunnel(self) -> None:
        """End an upgraded connection: what is on its way to the client still gets there."""
        self._let_go(reusable=False)
        self._client.finished(keep_alive=False, unread=False)

    def _let_go(self, *, reusable: bool) -> None:
        """Return everything that was taken, once."""
        self._over = True
        self.takes_body = False
        self._deadline = _NEVER
        worker = self._worker
        now = worker.now = monotonic()
        if self._waiting and self._tenant is not None:
            self._waiting = False
            worker.leases.give_up(self._tenant, self)
        upstream = self._upstream
        if upstream is not None:
            self._upstream = None
            if reusable and self._paused_since != _NEVER:
                upstream.resume()
            upstream.end(now, reusable=reusable)
        lease = self._lease
        if lease is not None:
            self._lease = None
            # As `Leases.finish`, which is not compiled and would be called for every request.
            if lease.leave(now):
                worker.leases.forget(lease)
        if self._gate is not None:
            self._gate.in_flight -= 1
            self._gate = None
        if self._leaseless:
            worker.tunnels.remove(self._target_name, self)
        worker.counters.count(self._target_name, self._status, now - self._started, self._sent)
        if self._status >= worker.access.threshold:
            self._log(now - self._started)

    def _log(self, duration_s: float) -> None:
        head = self.head
        self._worker.access.add(
            Entry(
                self._target_name,
                head.method,
                self._status,
                duration_s,
                self._sent,
                self._request_id,
                head.fields.host,
                head.target,
                self._client.peer,
            )
        )
