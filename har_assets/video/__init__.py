"""Videos to frames: decoding, temporal sampling, decoding in parallel, and the frame cache.

Nothing here imports Dagster, torch or MLflow, and importing this package imports no decoder.
"""
