"""The Python client: httpx and schemas only."""
