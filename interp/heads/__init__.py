"""Detectors: each scores every head for one behaviour."""
