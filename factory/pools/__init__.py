"""Pools, nodes and runners: what there is to share."""
