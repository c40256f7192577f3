"""Suggest a recipe for a dataset and a machine (`srel-hub init`)."""
