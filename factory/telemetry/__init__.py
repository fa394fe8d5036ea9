"""Prometheus metrics, structured logs."""
