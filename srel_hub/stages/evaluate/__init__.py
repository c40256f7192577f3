"""Evaluate: students trained on condensed and real images."""
