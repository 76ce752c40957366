"""The manager: owns the registry, the tenants' lives, and dev.tenement.Manager on the system bus.

It runs as root, in a sandbox of its own, and parses nothing that came from the internet.
"""
