"""Bridges of TransformerLens, whose attention is sent through ``attend`` while their hooks go on firing."""
