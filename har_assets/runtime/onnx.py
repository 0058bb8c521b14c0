"""ONNX files in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from har_assets.errors import ModelFileError
from har_assets.model.integrity import refuse_false_spec, verify
from har_assets.model.spec import from_metadata
from har_assets.runtime.predictor import Predictor, Runtime, Scores
from har_assets.system.gpu import gpu_compute_capability
from har_assets.video.sampling import Clips


class OnnxPredictor(Predictor):
    """An ONNX file that onnx_model published, by CUDA where a GPU is usable, else by the CPU."""

    def __init__(self, path: Path, *, provider: str | None = None, threads: int = 0) -> None:
        """`provider` is `CUDA` or `CPU`, None takes the better one; `threads` 0 takes every core."""
        import onnxruntime as ort

        from har_assets.video.workers import available_cores

        proto = verify(path)
        spec, provenance = from_metadata({entry.key: entry.value for entry in proto.metadata_props}, str(path))
        refuse_false_spec(proto, spec, path)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or available_cores()
        # Threads that wait in a loop for work take the cores from those that decode the next videos.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = ort.InferenceSession(
                proto.SerializeToString(), options, providers=_providers(provider, str(path))
            )
        except Exception as error:
            raise ModelFileError(
                f"ONNX Runtime {ort.__version__} cannot run {path} ({str(error).splitlines()[0][:160]}): "
                "export it again with the installed versions."
            ) from error
        device = self.session.get_providers()[0].removesuffix("ExecutionProvider")
        if provider == "CUDA" and device != "CUDA":
            raise ModelFileError(
                "ONNX Runtime could not load its CUDA libraries (CUDA and cuDNN of the version it was built for): "
                "install them, or choose the runtime onnxruntime_cpu."
            )
        self.name = f"onnxruntime_{device.lower()}"
        self.runtime = f"ONNX Runtime {ort.__version__} {device}"
        self.input_name = self.session.get_inputs()[0].name
        super().__init__(spec, provenance)

    def _scores(self, clips_BCTHW: Clips) -> Scores:
        scores_BK: Scores = self.session.run(None, {self.input_name: clips_BCTHW})[0]
        return scores_BK


def why_not_cuda() -> str:
    """Why ONNX Runtime cannot use a GPU here, a clause; empty where nothing is known against it."""
    if gpu_compute_capability() is None:
        return "there is no CUDA GPU on this machine"
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "the installed ONNX Runtime was built without CUDA: install onnxruntime-gpu"
    return ""


def _providers(wanted: str | None, path: str) -> list[Any]:
    """Providers in order; CUDA is asked for only where it can be there, so that its absence is no log noise."""
    cpu: list[Any] = ["CPUExecutionProvider"]
    if wanted == "CPU":
        return cpu
    reason = why_not_cuda()
    if reason and wanted == "CUDA":
        raise ModelFileError(f"{path} cannot run by CUDA, as {reason}, or choose the runtime onnxruntime_cpu.")
    if reason:
        return cpu
    import onnxruntime as ort

    # CUDA and cuDNN as PyTorch's wheels bring them, which are not on the library path.
    ort.preload_dlls()
    return ["CUDAExecutionProvider", *cpu]


def _cuda_or_cpu(path: Path, threads: int) -> Predictor:
    """By CUDA where that works, else by the CPU, with the reason in `why`."""
    reason = why_not_cuda()
    predictor = OnnxPredictor(path, provider="CPU" if reason else None, threads=threads)
    if predictor.name == CPU.name:
        predictor.why = reason or "its CUDA libraries could not be loaded"
    return predictor


CUDA = Runtime(
    "onnxruntime_cuda",
    ".onnx",
    why_not=lambda path: why_not_cuda(),
    load=lambda path, threads: OnnxPredictor(path, provider="CUDA", threads=threads),
    exact=True,
)
CPU = Runtime(
    "onnxruntime_cpu",
    ".onnx",
    why_not=lambda path: "",
    load=lambda path, threads: OnnxPredictor(path, provider="CPU", threads=threads),
    exact=True,
)
CUDA_OR_CPU = Runtime("onnxruntime", ".onnx", why_not=lambda path: "", load=_cuda_or_cpu, exact=True)
"""The first of the two that works."""
