"""ONNX files in OpenVINO, on the CPU."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np

from har_assets.errors import ModelFileError
from har_assets.model.integrity import refuse_false_spec, verify
from har_assets.model.spec import from_metadata
from har_assets.runtime.predictor import Predictor, Runtime, Scores
from har_assets.video.sampling import Clips

PRECISIONS = {"openvino": "f32", "openvino_bf16": "bf16"}
"""Name of the runtime -> what OpenVINO multiplies in."""


class OpenVinoPredictor(Predictor):
    """An ONNX file that onnx_model published, in float32 or, where the CPU multiplies that, in bfloat16."""

    def __init__(self, path: Path, *, name: str = "openvino", threads: int = 0) -> None:
        """`name` is one of PRECISIONS; `threads` 0 takes every core."""
        reason = why_not(name)
        if reason:
            raise ModelFileError(f"{path} cannot run in {name}, as {reason}, or choose the runtime onnxruntime_cpu.")
        import openvino

        from har_assets.video.workers import available_cores

        proto = verify(path)
        spec, provenance = from_metadata({entry.key: entry.value for entry in proto.metadata_props}, str(path))
        refuse_false_spec(proto, spec, path)
        version = openvino.__version__.split("-")[0]
        try:
            core = openvino.Core()
            self.compiled = core.compile_model(
                core.read_model(proto.SerializeToString()),
                "CPU",
                {
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": PRECISIONS[name],
                    "INFERENCE_NUM_THREADS": threads or available_cores(),
                    # The processes that decode the next videos want the same cores.
                    "ENABLE_CPU_PINNING": False,
                },
            )
        except Exception as error:
            raise ModelFileError(
                f"OpenVINO {version} cannot run {path} ({str(error).strip().splitlines()[-1][:160]}): "
                "choose the runtime onnxruntime_cpu."
            ) from error
        self.name = name
        self.runtime = f"OpenVINO {version} CPU {PRECISIONS[name]}"
        super().__init__(spec, provenance)

    def _scores(self, clips_BCTHW: Clips) -> Scores:
        # A copy: the result lies in memory of OpenVINO, which the next call writes over.
        return np.array(self.compiled(clips_BCTHW)[0], np.float32)


@cache
def why_not(name: str) -> str:
    """Why OpenVINO cannot run a model here that way, a clause; empty where nothing is known against it."""
    if importlib.util.find_spec("openvino") is None:
        return "OpenVINO is not installed: `pip install 'har_assets[openvino]'`"
    if name == "openvino_bf16":
        import openvino

        if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            return "this CPU has no bfloat16 instructions (AVX-512 BF16 or AMX): choose the runtime openvino"
    return ""


def _row(name: str) -> Runtime:
    return Runtime(
        name,
        ".onnx",
        why_not=lambda path: why_not(name),
        load=lambda path, threads: OpenVinoPredictor(path, name=name, threads=threads),
        exact=PRECISIONS[name] == "f32",
    )


FLOAT32, BFLOAT16 = _row("openvino"), _row("openvino_bf16")
