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

LINEAGE_TAG = "har.lineage"
"""Tag of an MLflow run: the training that it belongs to, by which a repetition finds it again."""

TRAINING_ENDED_TAG = "har.training_ended"
"""Tag of an MLflow run: when its training ended last, in milliseconds since 1970. It stays the end of the run when a
later step reopens it, so MLflow shows how long the training took."""

SHA256_TAG = "onnx_sha256"
"""Of a logged model and a registered version: SHA-256 of its ONNX file."""

TESTED_TAG = "har.tested_onnx"
"""Tag of an MLflow run: SHA-256 of the ONNX file that its test figures are of; empty where they are of a checkpoint."""

TEST_FIGURES = ("test_video_top1", "test_video_top5", "test_video_mean_class_accuracy")
"""Metrics that are of one ONNX file, and shown at the logged models that serve it."""
