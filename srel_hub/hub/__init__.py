"""The Hugging Face Hub: reading repositories, pushing to them, and reading back what was pushed."""
