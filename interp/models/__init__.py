"""Hooked models: real models whose attention runs through ``interp_kernels.attend``."""
