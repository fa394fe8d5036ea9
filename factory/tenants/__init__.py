"""Tenants, queues and keys: who may do what."""
