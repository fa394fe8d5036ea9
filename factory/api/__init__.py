"""FastAPI routers by resource, error mapping, auth."""
