"""A job for each command of the original project, and jobs to build everything, promote and prune."""

from __future__ import annotations

import dagster as dg
from dagster import AssetSelection

from har_assets.graph.ops.infer import infer, infer_from_onnx, infer_ml_flow
from har_assets.graph.ops.promote import promote, rollback
from har_assets.graph.ops.prune import prune_artifacts

UP_TO_CHECKPOINT = AssetSelection.assets("trained_checkpoint").upstream()


def _with_dvc(mode: str) -> dict[str, object]:
    return {"ops": {"video_clips": {"config": {"dvc": mode}}}}


ASSET_JOBS = [
    dg.define_asset_job(
        "download_data",
        AssetSelection.assets("raw_archive", "video_clips"),
        description="download-data: fetch (or render) the archive and unpack it into data/.",
    ),
    dg.define_asset_job(
        "train_ml_flow",
        UP_TO_CHECKPOINT,
        config=_with_dvc("off"),
        description="train-ml-flow: everything up to a trained checkpoint, tracked in MLflow, data/ without DVC.",
    ),
    dg.define_asset_job(
        "train_ml_flow_dvc",
        UP_TO_CHECKPOINT,
        config=_with_dvc("add"),
        description="train-ml-flow-dvc: the same with data/ versioned by DVC.",
    ),
    dg.define_asset_job(
        "train_ml_flow_server_dvc",
        AssetSelection.assets("serving_model").upstream(),
        config=_with_dvc("add"),
        description="train-ml-flow-server-dvc: the same, then the model registered in MLflow, ready to be served.",
    ),
    dg.define_asset_job(
        "export_onnx",
        AssetSelection.assets("onnx_model"),
        description="export-onnx: the latest checkpoint to ONNX, compared with it. `precision: fp16` (or int8) on "
        "onnx_model chooses what is deployed, `also` what lies beside it.",
    ),
    dg.define_asset_job(
        "convert_trt",
        AssetSelection.assets("trt_engine"),
        description="convert-trt: the latest ONNX model to a TensorRT engine. `precision`, `targets` and the batch "
        "sizes are configuration of trt_engine.",
    ),
    dg.define_asset_job(
        "index_to_class",
        AssetSelection.assets("class_index"),
        description="index-to-class: index_to_class.csv from the class list of the data set.",
    ),
    dg.define_asset_job(
        "whole_road",
        AssetSelection.assets("trt_engine", "evaluation_report").upstream(),
        description="From the archive to the engine and the evaluation report.",
    ),
]
"""Jobs that make assets."""

OP_JOBS = [infer_from_onnx, infer_ml_flow, infer, promote, rollback, prune_artifacts]
"""Jobs that make none."""
