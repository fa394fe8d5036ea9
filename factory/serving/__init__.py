"""Endpoints, their revisions and the ingress port."""
