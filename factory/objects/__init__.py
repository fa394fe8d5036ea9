"""Bytes: the object-store port and its adapters."""
