"""Performs lifecycle.reconcile on one Ray cluster: agents, replicas, ingress."""
