"""A Ray cluster: its address, what steps need of its nodes, work in shards, training over nodes. Knows no Dagster."""
