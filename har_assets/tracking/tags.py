"""Names in MLflow that one part of the project writes and another one reads."""

MODEL_NAME = "har_video_action"
"""Registered model that serving_model adds versions to, unless it is told another one."""

ONNX_VERSION_TAG = "har.onnx_model"
"""Of a registered version: data version of the onnx_model that it serves, by which its test predictions are found."""

BEFORE_TAG = "har.champion_before"
"""Of a registered version: number of the version that was champion before it, to which a rollback returns."""

STEP_TAG = "step."
"""`step.onnx_model` of a run says how that step ended and which Dagster run it was."""

DAGSTER_STEP_TAG = "har.dagster_step"
"""Tag of an MLflow run: the Dagster run, or the one that it repeats, and the asset. At most one training of it
runs at a time."""
