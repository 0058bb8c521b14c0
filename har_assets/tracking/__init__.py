"""MLflow: one run a model lineage, written through an outbox on disk."""
