"""serving_model: the ONNX model as MLflow serves it, registered as a version."""

import os
from pathlib import Path
from typing import Any

import dagster as dg

from har_assets.graph.asset import AssetConfig, stage_asset
from har_assets.graph.assets.deployment import deployed_precision, published_onnx, refuse_failed_parity
from har_assets.graph.publishing import publish
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.serving.limits import ServingLimits
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact
from har_assets.system.files import hash_of
from har_assets.tracking.tags import ONNX_VERSION_TAG

MODEL_NAME = "har_video_action"
"""Registered model, unless the configuration names another."""

LARGEST_DIFFERENCE = 1e-6
"""Between a score of the served model and `predict_video`'s, from the same runtime: the same numbers, as text."""


class ServingConfig(AssetConfig):
    """Which model is served, and what a request may ask of it."""

    model_name: str = MODEL_NAME
    """Name of the registered model."""
    precision: str = ""
    """fp32, fp16 or int8 of those that onnx_model has published; empty takes the deployed one."""
    runtime: str = "auto"
    """What runs the model where it is served, as for `har predict`; `auto` takes the fastest there."""
    workers: int = 0
    """Decoding processes of a server; 0 takes one a core."""
    max_video_bytes: int = ServingLimits.max_video_bytes
    """Largest video, bytes of the file."""
    max_rows: int = ServingLimits.max_rows
    """Most videos a request."""
    max_windows: int = ServingLimits.max_windows
    """Most clips of a video that a request may ask for."""
    max_frames: int = ServingLimits.max_frames
    """Most frames of a video."""
    max_seconds: float = ServingLimits.max_seconds
    """Longest duration of a video."""
    max_pixels: int = ServingLimits.max_pixels
    """Largest picture, height times width."""
    decode_timeout_s: float = ServingLimits.decode_timeout_s
    """Seconds that one video may take to be decoded."""
    request_timeout_s: float = ServingLimits.request_timeout_s
    """Seconds that a request may take; MLflow's server gives up after 60."""

    def served(self) -> dict[str, Any]:
        """The configuration that travels with the model; HarError where a limit is impossible."""
        fields = {name: value for name, value in self.content().items() if name not in ("model_name", "precision")}
        ServingLimits.from_config(fields)
        return fields


@stage_asset(
    "serving_model",
    check_specs=[
        dg.AssetCheckSpec(
            "answers_like_predict",
            asset="serving_model",
            blocking=True,
            description="Asked through MLflow, the saved model gives the scores of `har predict`.",
        )
    ],
)
def serving_model(
    context: dg.AssetExecutionContext, config: ServingConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> dg.MaterializeResult:
    """`model/`: an MLflow model that takes videos as base64 and returns labels and scores.

    Logged to the MLflow run of its training and registered, the new version with the alias `challenger`. Without
    MLflow, or where the model was trained without, the folder alone is made; it can be served as it is.
    """
    uri = mlflow.uri(store.project_folder)

    def product_of(build: Build) -> Product:
        from har_assets.serving import package

        onnx = build.inputs["onnx_model"]
        precision = config.precision or deployed_precision(onnx)
        file = published_onnx(onnx, precision)
        refuse_failed_parity(onnx, precision)
        served = config.served()
        facts = _facts(onnx, file, precision)
        difference = 0.0

        def save(folder: Path, model: Any) -> Path:
            nonlocal difference
            package.save_model(file, folder, served, facts, model)
            difference = package.compare_answer(folder)
            return folder

        folder = build.folder / "model"
        path = os.path.relpath(store.folder.root / "serving_model" / "latest" / "model", store.project_folder)
        version = None
        if build.run.run_id:
            origin = hash_of({"onnx": facts["onnx_sha256"], "config": served, "run": build.run.run_id})
            tags = {
                package.ORIGIN_TAG: origin,
                ONNX_VERSION_TAG: onnx.record.data_version,
                **{name: str(value) for name, value in facts.items() if name != "labels"},
            }
            version = package.register(uri, build.run.run_id, config.model_name, folder, save, tags, again=config.force)
            build.run.tags({"registered_as": version.words})
        else:
            save(folder, None)
        return Product(
            headline=f"{precision}, {_registered(version.words if version else '', mlflow)}",
            metadata={
                "precision": precision,
                "registered": {"name": version.name, "version": version.number} if version else {},
                "serve": _serve_command(uri, f"models:/{config.model_name}@challenger" if version else path),
                "limits": served,
            },
            checks={
                "answers_like_predict": {
                    "passed": difference <= LARGEST_DIFFERENCE,
                    "max_difference": difference,
                    "max_difference_allowed": LARGEST_DIFFERENCE,
                }
            },
        )

    def reusable(artifact: Artifact) -> bool:
        from har_assets.serving.package import Version, is_registered

        registered = artifact.record.metadata["registered"]
        return not registered or is_registered(uri, Version(registered["name"], registered["version"]))

    return publish(
        context,
        store,
        config,
        product_of,
        # Registered elsewhere, or nowhere, it is made again.
        identity={"registry": mlflow.tracking_uri},
        reusable=reusable,
        mlflow=mlflow,
    )


def _facts(onnx: Artifact, file: Path, precision: str) -> dict[str, Any]:
    """What a person who meets the model in MLflow wants to know of it."""
    from har_assets.runtime import read_spec

    lineage = onnx.record.lineage
    return {
        **{name: lineage[name] for name in ("dataset", "synthetic", "data_version", "split") if name in lineage},
        "precision": precision,
        "onnx_sha256": onnx.record.files[file.name]["sha256"],
        "labels": list(read_spec(file).labels),
    }


def _registered(version: str, mlflow: MlflowTracking) -> str:
    if version:
        return f"{version}, alias challenger"
    why = "the model was trained without MLflow" if mlflow.tracking_uri else "MLflow is off"
    return f"not registered, as {why}; the folder can be served as it is"


def _serve_command(uri: str, model: str) -> str:
    address = f"MLFLOW_TRACKING_URI={uri} " if model.startswith("models:") else ""
    return f"{address}mlflow models serve --env-manager local --port 5001 -m {model}"
