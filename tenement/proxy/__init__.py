"""The data plane: a worker that parses the internet's HTTP/1.1, finds the tenant by Host, holds a lease and
relays.

The modules from the inside out. Pure, no I/O and no clock: `hosts`, `routes`, `request_head`,
`response_head`, `framing`, `forwarded`, `limits`, `sticky`. State over abstract edges: `leases`. Edges: `bus`
(D-Bus), `server` (clients), `upstream` (apps), `exchange` (one request between the two), `access` (journal),
`pages` (answers of our own). `worker` wires them together.
"""
