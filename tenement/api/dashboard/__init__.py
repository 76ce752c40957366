"""The dashboard: pages rendered here, brought up to date in the browser by server-sent events."""
