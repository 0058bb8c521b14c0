"""New videos in a folder: which there are, which have been asked for, and what was predicted of each. No Dagster."""
