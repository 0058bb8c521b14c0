"""The product of serving_model: an MLflow model of the published ONNX file, registered where there is MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from har_assets.model.published import deployed_precision, published_onnx, refuse_failed_parity
from har_assets.runtime import read_spec
from har_assets.serving import package
from har_assets.serving.limits import ServingLimits
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact
from har_assets.system.files import hash_of
from har_assets.tracking.tags import ONNX_VERSION_TAG, SHA256_TAG

LARGEST_DIFFERENCE = 1e-6
"""Between a score of the served model and `predict_video`'s, from the same runtime: the same numbers, as text."""


def build_serving_model(
    build: Build, served: Mapping[str, Any], *, precision: str, uri: str, model_name: str, path: str, again: bool
) -> Product:
    """The product of serving_model: the folder `model/`, logged to the run of its training and registered.

    Args:
        build: input onnx_model. Without an MLflow run the folder alone is made.
        served: limits, runtime and workers; travel with the model.
        precision: of those that onnx_model has published; empty takes the deployed one.
        uri: tracking address of MLflow; empty where it is off.
        model_name: of the registered model.
        path: of the published folder, for the command that serves it without a registry.
        again: register another version although there is one of the same content.

    Raises:
        HarError: a limit is impossible, or the precision was not published or did not pass its gate.
        RegistryError: MLflow does not answer as needed.
    """
    onnx = build.inputs["onnx_model"]
    precision = precision or deployed_precision(onnx)
    file = published_onnx(onnx, precision)
    refuse_failed_parity(onnx, precision)
    config = dict(served)
    ServingLimits.from_config(config)
    facts = facts_of(onnx, file, precision)
    difference = 0.0

    def save(folder: Path, model: Any) -> Path:
        nonlocal difference
        package.save_model(file, folder, config, facts, model)
        difference = package.compare_answer(folder)
        return folder

    folder, run_id = build.folder / "model", build.run.run_id
    version = None
    if run_id:
        tags = {
            package.ORIGIN_TAG: hash_of({"onnx": facts[SHA256_TAG], "config": config, "run": run_id}),
            ONNX_VERSION_TAG: onnx.record.data_version,
            **{name: str(value) for name, value in facts.items() if name != "labels"},
        }
        version = package.register(uri, run_id, model_name, folder, save, tags, again=again)
        build.run.tags({"registered_as": version.words})
    else:
        save(folder, None)
    return Product(
        headline=f"{precision}, {registered_in_words(version, uri)}",
        metadata={
            "precision": precision,
            "registered": {"name": version.name, "version": version.number} if version else {},
            "serve": serve_command(uri, f"models:/{model_name}@{package.CHALLENGER}" if version else path),
            "limits": config,
        },
        checks={
            "answers_like_predict": {
                "passed": difference <= LARGEST_DIFFERENCE,
                "max_difference": difference,
                "max_difference_allowed": LARGEST_DIFFERENCE,
            }
        },
    )


def still_registered(model: Artifact, uri: str) -> bool:
    """Whether the registry still has the version of a published serving_model; True where it was not registered."""
    registered = model.record.metadata["registered"]
    return not registered or package.is_registered(uri, package.Version(registered["name"], registered["version"]))


def facts_of(onnx: Artifact, file: Path, precision: str) -> dict[str, Any]:
    """Metadata of the model in MLflow: its lineage, precision, SHA-256 and labels."""
    lineage = onnx.record.lineage
    return {
        **{name: lineage[name] for name in ("dataset", "synthetic", "data_version", "split") if name in lineage},
        "precision": precision,
        SHA256_TAG: onnx.record.files[file.name]["sha256"],
        "labels": list(read_spec(file).labels),
    }


def registered_in_words(version: package.Version | None, uri: str) -> str:
    """Under which name a model is registered, or why it is not."""
    if version:
        return f"{version.words}, alias {package.CHALLENGER}"
    why = "the model was trained without MLflow" if uri else "MLflow is off"
    return f"not registered, as {why}; the folder can be served as it is"


def serve_command(uri: str, model: str) -> str:
    """The command that serves a folder, or a registered model (`models:/...`)."""
    address = f"MLFLOW_TRACKING_URI={uri} " if model.startswith("models:") else ""
    return f"{address}mlflow models serve --env-manager local --port 5001 -m {model}"
