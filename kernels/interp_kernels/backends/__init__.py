"""Implementations of attention with probes. Backends do not import one another and never fall back in silence."""
