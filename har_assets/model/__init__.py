"""The model: what it expects of a video (spec), networks, the Lightning module and its data."""
