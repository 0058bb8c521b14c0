"""The model of `mlflow models serve`, logged as this code: MLflow runs the file where the model is loaded.

It needs an environment in which har_assets is installed. A request is a table with the columns `video` (a file as
base64) or `path`, and the parameters `top_k` and `windows`; the answer has a row of labels and scores for each.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc import PythonModel, PythonModelContext

from har_assets import settings
from har_assets.errors import HarError
from har_assets.serving.limits import ServingLimits
from har_assets.serving.service import BusyError, RequestError, VideoRow, VideoService


class RefusedError(MlflowException):  # type: ignore[misc]
    """An MlflowException that keeps its sentence: MLflow's server would put the request in front of it."""

    @property
    def message(self) -> str:
        """The sentence."""
        return self._sentence

    @message.setter
    def message(self, text: str) -> None:
        self._sentence = getattr(self, "_sentence", text)


class ServedVideoModel(PythonModel):  # type: ignore[misc]
    """The published ONNX model, its decoding processes, and the limits that travel with it."""

    service: VideoService

    def load_context(self, context: PythonModelContext) -> None:
        """Open the model and start the decoding processes."""
        config = dict(context.model_config or {})
        self.service = VideoService(
            Path(context.artifacts["model"]),
            ServingLimits.from_config(config),
            runtime=str(config.get("runtime", "auto")),
            workers=int(config.get("workers", 0)),
            folder=settings.read().serving_folder,
        )

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Labels and scores of each row; RefusedError with a sentence: HTTP 400, 503 for a busy server, else 500."""
        wanted = {"top_k": 5, "windows": 4, **(params or {})}
        rows = [VideoRow(*(_given(row, name) for name in ("video", "path"))) for row in model_input.to_dict("records")]
        try:
            return self.service.predict(rows, top_k=int(wanted["top_k"]), windows=int(wanted["windows"]))
        except RequestError as error:
            raise RefusedError(str(error), error_code=INVALID_PARAMETER_VALUE) from None
        except BusyError as error:
            raise RefusedError(str(error), error_code=TEMPORARILY_UNAVAILABLE) from None
        except HarError as error:
            raise RefusedError(str(error), error_code=INTERNAL_ERROR) from None


def _given(row: dict[Any, Any], name: str) -> object:
    """A cell, or None where it is absent or empty (pandas writes NaN there)."""
    value = row.get(name)
    return None if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)) else value


set_model(ServedVideoModel())
