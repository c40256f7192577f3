"""Studies built on runs: what they cost, how settings compare, and what condensed images are good for."""
