"""The whole graph."""

import logging

import dagster as dg

from har_assets.graph.assets.benchmark import runtime_benchmark
from har_assets.graph.assets.data_dvc import data_dvc
from har_assets.graph.assets.dataset import (
    class_index,
    data_unspoiled,
    frame_cache,
    manifests,
    raw_archive,
    video_clips,
)
from har_assets.graph.assets.deployment import onnx_model, trt_engine
from har_assets.graph.assets.evaluation import test_predictions
from har_assets.graph.assets.incoming import incoming_video_predictions
from har_assets.graph.assets.report import evaluation_report
from har_assets.graph.assets.serving import serving_model
from har_assets.graph.assets.splits import hmdb51_benchmark, split_evaluation
from har_assets.graph.assets.training import pretrained_weights, trained_checkpoint
from har_assets.graph.described import described
from har_assets.graph.io import product_reader
from har_assets.graph.jobs import ASSET_JOBS, OP_JOBS
from har_assets.graph.resources.dvc import Dvc
from har_assets.graph.resources.incoming import IncomingVideos
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.graph.running.chosen import chosen_executor
from har_assets.graph.schedules import SCHEDULES
from har_assets.graph.sensors import SENSORS
from har_assets.settings.fields import unknown

ASSETS: list[dg.AssetsDefinition | dg.SourceAsset] = [
    raw_archive,
    data_dvc,
    video_clips,
    manifests,
    class_index,
    frame_cache,
    pretrained_weights,
    trained_checkpoint,
    onnx_model,
    trt_engine,
    serving_model,
    test_predictions,
    evaluation_report,
    runtime_benchmark,
    split_evaluation,
    hmdb51_benchmark,
    incoming_video_predictions,
]

RESOURCES = {
    "store": ArtifactStore(),
    "io_manager": product_reader,
    "dvc": Dvc(),
    "mlflow": MlflowTracking(),
    "incoming": IncomingVideos(),
    "pipes": dg.PipesSubprocessClient(termination_timeout_seconds=60),
}

for sentence in unknown().values():
    logging.getLogger(__name__).warning(sentence)

defs = dg.Definitions(
    assets=described(ASSETS),
    asset_checks=[data_unspoiled],
    jobs=[*ASSET_JOBS, *OP_JOBS],
    schedules=SCHEDULES,
    sensors=SENSORS,
    resources=RESOURCES,
    executor=chosen_executor(),
)
