"""serving_model: the ONNX model as MLflow serves it, registered as a version."""

import os
from typing import Any

import dagster as dg

from har_assets.graph.asset import AssetConfig, stage_asset
from har_assets.graph.publishing import publish
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.serving.limits import ServingLimits
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact
from har_assets.tracking.client import without_password
from har_assets.tracking.tags import MODEL_NAME

"""Registered model, unless the configuration names another."""


class ServingConfig(ServingLimits, AssetConfig):
    """Which model is served, and what a request may ask of it."""

    model_name: str = MODEL_NAME
    """Name of the registered model."""
    precision: str = ""
    """fp32, fp16 or int8 of those that onnx_model has published; empty takes the deployed one."""
    runtime: str = "auto"
    """The runtime of the served model, as for `har predict`; `auto` takes the fastest there."""
    workers: int = 0
    """Decoding processes of a server; 0 takes one a core."""

    def served(self) -> dict[str, Any]:
        """The configuration that travels with the model."""
        return {name: value for name, value in self.content().items() if name not in ("model_name", "precision")}


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
        from har_assets.serving.build import build_serving_model

        return build_serving_model(
            build,
            config.served(),
            precision=config.precision,
            uri=uri,
            model_name=config.model_name,
            path=os.path.relpath(store.folder.root / "serving_model" / "latest" / "model", store.project_folder),
            again=config.force,
        )

    def reusable(model: Artifact) -> bool:
        from har_assets.serving.build import still_registered

        return still_registered(model, uri)

    return publish(
        context,
        store,
        config,
        product_of,
        # Registered elsewhere, or nowhere, it is made again.
        identity={"registry": without_password(mlflow.tracking_uri)},
        reusable=reusable,
        mlflow=mlflow,
    )
