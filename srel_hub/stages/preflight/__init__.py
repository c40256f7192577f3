"""What is gathered and checked before a run starts."""
