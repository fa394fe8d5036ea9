"""What stands in front of the replicas: HAProxy, or a small asyncio proxy where that is missing."""
