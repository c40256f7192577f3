"""Sweep: one recipe at many points."""
