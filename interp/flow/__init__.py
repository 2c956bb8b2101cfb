"""How information moves through layers: what combines the maps of several layers."""
