"""New videos in a folder or a bucket: which there are, which were asked for, what was predicted. No Dagster."""
