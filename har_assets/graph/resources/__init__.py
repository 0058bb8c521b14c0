"""Dagster resources: the artifact store, MLflow and DVC."""
