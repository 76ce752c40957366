"""Tenants' logs: which lines of the journal are whose, how they are searched and how they are written."""
