"""A small Hub on 127.0.0.1 for the real clients: `store` holds it, `server` speaks HTTP, `client` starts it."""
