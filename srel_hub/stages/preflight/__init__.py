"""Preflight: gather and check everything that a run needs before it starts."""
