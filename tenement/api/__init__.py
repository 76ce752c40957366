"""The HTTP API, the dashboard and /metrics, served at the base domain.

A process without privilege: what it asks of the manager, it asks with the token of the caller, which the
manager verifies (see tenement.manager.access).
"""
