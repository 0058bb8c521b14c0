"""ONNX files in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from har_assets.errors import ModelFileError
from har_assets.gpu import gpu_compute_capability
from har_assets.model.spec import from_metadata
from har_assets.runtime.predictor import Clips, Predictor, Scores


class OnnxPredictor(Predictor):
    """An ONNX file that onnx_model published, by CUDA where a GPU is usable, else by the CPU."""

    def __init__(self, path: Path, *, provider: str | None = None, threads: int = 0) -> None:
        """`provider` is `CUDA` or `CPU`, None takes the better one; `threads` 0 takes every core."""
        import onnxruntime as ort  # noqa: PLC0415

        if not path.is_file():
            raise ModelFileError(f"There is no ONNX file {path}: materialize onnx_model or name another file.")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        try:
            self.session = ort.InferenceSession(path, options, providers=_providers(provider))
        except Exception as error:
            raise ModelFileError(
                f"{path} is not a readable ONNX model ({str(error).splitlines()[0][:160]}): export it again."
            ) from error
        spec, provenance = from_metadata(self.session.get_modelmeta().custom_metadata_map, str(path))
        device = self.session.get_providers()[0].removesuffix("ExecutionProvider")
        self.runtime = f"ONNX Runtime {ort.__version__} {device}"
        self.input_name = self.session.get_inputs()[0].name
        super().__init__(spec, provenance)

    def _scores(self, clips_BCTHW: Clips) -> Scores:
        scores_BK: Scores = self.session.run(None, {self.input_name: clips_BCTHW})[0]
        return scores_BK


def _providers(wanted: str | None) -> list[Any]:
    """Providers in order; CUDA is asked for only where the driver has a GPU, so that its absence is no log noise."""
    cpu: list[Any] = ["CPUExecutionProvider"]
    if wanted == "CPU" or (wanted is None and gpu_compute_capability() is None):
        return cpu
    if wanted == "CUDA" and gpu_compute_capability() is None:
        raise ModelFileError("There is no CUDA GPU on this machine: choose provider CPU.")
    return ["CUDAExecutionProvider", *cpu]
