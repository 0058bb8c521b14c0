"""Published products: versions in a folder or a bucket, their records, quota and pruning. Knows no Dagster."""
