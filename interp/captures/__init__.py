"""One forward run with probes: what it takes, what it gives, on disk and in tables."""
