"""The model registry: versions, lineage, promotion; MLflow as its projection."""
