"""The stages: squeeze, recover, relabel and evaluate, the checks before them, and how they follow each other."""
