"""One predictor over many engines: `open_model(path).predict(clips_BCTHW)`."""

from pathlib import Path

from har_assets.errors import ModelFileError
from har_assets.runtime.predictor import Predictor

__all__ = ["Predictor", "open_model"]


def open_model(path: Path | str) -> Predictor:
    """Load a model file by its suffix: `.ckpt` in PyTorch, `.onnx` in ONNX Runtime.

    Labels, frame count and preprocessing come from the file. Raises ModelFileError, in a sentence, for a
    file that is missing, damaged, foreign or of an unknown kind.
    """
    path = Path(path)
    if path.suffix == ".ckpt":
        from har_assets.runtime.checkpoint import CheckpointPredictor  # noqa: PLC0415

        return CheckpointPredictor(path)
    if path.suffix == ".onnx":
        from har_assets.runtime.onnx import OnnxPredictor  # noqa: PLC0415

        return OnnxPredictor(path)
    raise ModelFileError(f"{path} is no model file that can be run here: name a .ckpt or an .onnx file.")
