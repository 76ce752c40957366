"""tenement: one app, a sandboxed systemd unit per customer, asleep until the next request."""

__version__ = "0.1.0"
