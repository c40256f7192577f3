"""The real dataset: find it, check it, and read its splits as uint8 RGB images of one size."""
