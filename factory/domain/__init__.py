"""Frozen values and enums that every layer speaks: pools, queues, jobs, datasets, algorithms, models, events."""
