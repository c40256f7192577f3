"""Plan a run: its images, bytes, FLOPs, memory and hours before it starts."""
