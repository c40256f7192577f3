"""Recover: the optimization of the condensed images."""
