"""Soft labels: the manifest and the label files, labellers, epochs, condensed datasets and their verification."""
