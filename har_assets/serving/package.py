"""An ONNX model as an MLflow model: saved as a folder, logged to the run of its training, registered as a version.

The folder alone can be served (`mlflow models serve -m FOLDER`); what is logged is the same folder.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from har_assets.errors import HarError
from har_assets.tracking.client import client_of, one_line

if TYPE_CHECKING:
    import pandas as pd

CHALLENGER = "challenger"
"""Alias of the newest version."""

CHAMPION = "champion"
"""Alias of the version that was promoted."""

ORIGIN_TAG = "har.origin"
"""Tag of a version: hash of its inputs, so that the same one is not registered twice."""

SERVING_PACKAGES = ("har_assets", "mlflow", "onnxruntime-gpu", "onnx", "numpy", "pandas", "av", "decord", "pebble")
"""Distributions that a server needs; openvino besides, where it is installed here."""


class RegistryError(HarError):
    """A model registry that does not answer, or not as needed."""


@dataclass(frozen=True)
class Version:
    """A registered version of a model."""

    name: str
    number: str

    @property
    def words(self) -> str:
        """`har_video_action version 3`."""
        return f"{self.name} version {self.number}"


def requirements() -> list[str]:
    """Pinned distributions of this environment that a server needs, as pip requirements."""
    found = []
    for name in (*SERVING_PACKAGES, "openvino"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name}=={metadata.version(name)}")
    return found


def example_video() -> bytes:
    """A second of 64x48 in which a bright square moves: small enough to travel with a model."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="avi") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            picture_HWC = np.full((48, 64, 3), 40, np.uint8)
            picture_HWC[16:32, number : number + 16] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HWC, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def example_request() -> pd.DataFrame:
    """One row, `example_video` as base64."""
    import pandas as pd

    return pd.DataFrame({"video": [base64.b64encode(example_video()).decode()]})


def save_model(onnx: Path, folder: Path, config: dict[str, Any], facts: dict[str, Any], model: Any = None) -> Path:
    """Write an MLflow model into a new folder and return it.

    Args:
        onnx: what onnx_model has published.
        folder: must not exist.
        config: limits, runtime and workers, which `SERVING_MODEL_CONFIG` may override where it is served.
        facts: shown by MLflow as the model's metadata: where it came from, its labels.
        model: an `mlflow.models.Model` that carries the ids of a logged model.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    signature = ModelSignature(
        # Neither is required: what is missing is said by the model, in a sentence that names the row.
        inputs=Schema([ColSpec(DataType.string, name, required=False) for name in ("video", "path")]),
        outputs=Schema(
            [
                ColSpec(Array(DataType.string), "labels"),
                ColSpec(Array(DataType.double), "scores"),
                ColSpec(DataType.long, "windows"),
                ColSpec(DataType.long, "frames"),
                ColSpec(DataType.string, "note"),
            ]
        ),
        params=ParamSchema([ParamSpec("top_k", DataType.long, 5), ParamSpec("windows", DataType.long, 4)]),
    )
    mlflow.pyfunc.save_model(
        path=str(folder),
        python_model=str(Path(__file__).with_name("pyfunc_model.py")),
        artifacts={"model": str(onnx)},
        model_config=config,
        signature=signature,
        input_example=example_request(),
        pip_requirements=requirements(),
        metadata=facts,
        mlflow_model=model,
    )
    return folder


def compare_answer(folder: Path, windows: int = 4) -> float:
    """Largest |difference| between a score of the saved model, asked through MLflow, and `predict_video`'s.

    On the example video, all classes; HarError where the labels stand in another order.
    """
    import mlflow.pyfunc

    from har_assets.runtime.video import predict_video

    loaded = mlflow.pyfunc.load_model(str(folder))
    service = loaded.unwrap_python_model().service
    try:
        top_k = len(service.predictor.spec.labels)
        (answer,) = loaded.predict(example_request(), params={"top_k": top_k, "windows": windows})
        with tempfile.NamedTemporaryFile(suffix=".avi") as file:
            file.write(example_video())
            file.flush()
            expected = predict_video(service.predictor, Path(file.name), windows=windows, top=top_k)
    finally:
        service.close()
    if tuple(answer["labels"]) != expected.labels:
        raise HarError(
            f"The saved model answers {', '.join(answer['labels'][:3])}, predict_video "
            f"{', '.join(expected.labels[:3])}: that is a fault of har_assets; report it with this sentence."
        )
    return float(np.abs(np.subtract(answer["scores"], expected.scores)).max())


@contextlib.contextmanager
def registry_in_words(uri: str) -> Iterator[None]:
    """Whatever MLflow raises becomes a RegistryError, in one sentence."""
    import sqlalchemy
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except (MlflowException, RequestException, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        raise RegistryError(
            f"The model registry at {uri} does not do as asked ({one_line(error)}): start it, or correct the resource "
            "mlflow's tracking_uri, then run the same command again."
        ) from error


def find_version(client: Any, name: str, origin: str) -> Version | None:
    """The newest version that was registered with that origin, or None. Raises what MLflow raises."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{ORIGIN_TAG}` = '{origin}'")
    numbers = [int(version.version) for version in found if version.status == "READY"]
    return Version(name, str(max(numbers))) if numbers else None


def is_registered(uri: str, version: Version) -> bool:
    """Whether the registry still has that version; RegistryError where it does not answer."""
    from mlflow.exceptions import MlflowException

    with registry_in_words(uri):
        try:
            client_of(uri).get_model_version(version.name, version.number)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True


def register(
    uri: str,
    run_id: str,
    name: str,
    folder: Path,
    save: Callable[[Path, Any], Path],
    tags: dict[str, str],
    *,
    again: bool = False,
) -> Version:
    """Save a model, log it to its run, register it as a version and give that the alias `challenger`.

    A version with the same tag `har.origin` that is there already, from a command that was killed, is taken instead,
    unless `again`. Where anything fails, the registry has no new version and the logged model is marked FAILED.

    Args:
        uri: tracking address of MLflow.
        run_id: the run of the training.
        name: of the registered model.
        folder: what is logged; `save` writes it.
        save: from the folder and the `mlflow.models.Model` with the ids of the logged model.
        tags: of logged model and version.
        again: make another version in any case.

    Raises:
        RegistryError: MLflow does not answer as needed.
    """
    with registry_in_words(uri):
        from mlflow.entities import LoggedModelOutput
        from mlflow.exceptions import MlflowException
        from mlflow.models import Model

        client = client_of(uri)
        found = None if again else find_version(client, name, tags[ORIGIN_TAG])
        if found:
            save(folder, None)
            client.set_registered_model_alias(name, CHALLENGER, found.number)
            return found
        experiment = client.get_run(run_id).info.experiment_id
        logged = client.create_logged_model(experiment, name, source_run_id=run_id, tags=tags)
        try:
            save(
                folder,
                Model(
                    artifact_path=logged.artifact_location,
                    run_id=run_id,
                    model_uuid=logged.model_id,
                    model_id=logged.model_id,
                ),
            )
            client.log_model_artifacts(logged.model_id, str(folder))
            client.finalize_logged_model(logged.model_id, "READY")
        except BaseException:
            with contextlib.suppress(MlflowException):
                client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        try:
            client.create_registered_model(name, description="Which action does a video show?")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        # Its place, not `models:/<id>`, which MLflow looks up at the tracking address of the process.
        made = client.create_model_version(name, logged.artifact_location, run_id, tags=tags, model_id=logged.model_id)
        client.set_registered_model_alias(name, CHALLENGER, made.version)
        return Version(name, str(made.version))
