"""The catalogue: manifests that import without torch, and the urban algorithms."""
