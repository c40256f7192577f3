"""Continual learning on condensed images."""
