"""A float32 ONNX model in lower precision, written into its types: TensorRT takes it as it stands.

fp16: every tensor float16, but for the sums and the softmax at the end. int8: explicit QuantizeLinear and
DequantizeLinear pairs on inputs and weights of Conv and Gemm, symmetric, weights a channel.

References:
    Explicit quantisation: https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html
    Calibration by entropy: Migacz 2017, "8-bit inference with TensorRT", GPU Technology Conference
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from har_assets.errors import HarError
from har_assets.runtime.parity import PRECISIONS

if TYPE_CHECKING:
    import onnx

    from har_assets.video.sampling import Clips

QUANTISED_OPS = ["Conv", "Gemm"]

FLOAT32_OPS = ["ReduceMean", "GlobalAveragePool"]
"""Sums over a whole clip: 16 x 14 x 14 activations of 21 exceed what float16 holds."""

HISTOGRAM_BINS = 2048
"""ONNX Runtime's 128 for the entropy method are as many as it quantises to, so that nothing would be cut off."""


@dataclass(frozen=True)
class Calibration:
    """How the range of each activation is found."""

    method: str = "percentile"
    """`percentile` or `entropy`."""
    percentile: float = 99.99
    """Share of activations, in per cent, that the range holds (percentile method)."""

    def __post_init__(self) -> None:
        if self.method not in ("percentile", "entropy"):
            raise HarError(f"There is no calibration {self.method!r}: choose percentile or entropy.")
        if not 50 < self.percentile <= 100:
            raise HarError(f"The calibration percentile is {self.percentile}: choose one above 50, up to 100.")


def check_precision(precision: str) -> str:
    """The precision itself; HarError names the known ones for any other."""
    if precision not in PRECISIONS:
        raise HarError(f"There is no precision {precision!r}: choose {', '.join(PRECISIONS)}.")
    return precision


def precision_of(proto: onnx.ModelProto) -> str:
    """Type that the convolutions compute in, read from the graph: fp32, fp16 or int8."""
    import onnx

    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        return "int8"
    types = {initializer.data_type for initializer in proto.graph.initializer if len(initializer.dims) > 1}
    return "fp16" if onnx.TensorProto.FLOAT16 in types else "fp32"


def to_fp16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A float16 copy of a float32 model; uint8 clips in and float32 scores out stay as they are."""
    from onnxruntime.transformers.float16 import (
        DEFAULT_OP_BLOCK_LIST,
        convert_float_to_float16,
    )
    from onnxruntime.transformers.onnx_model import OnnxModel

    prepared = _copy(proto)
    graph = prepared.graph
    # The softmax stays outside, so that the scores are float32 throughout: float16 has steps of 5e-4 below 1.
    (softmax,) = [node for node in graph.node if graph.output[0].name in node.output]
    scores = type(graph.output[0])()
    scores.CopyFrom(graph.output[0])
    graph.node.remove(softmax)
    graph.output[0].name = softmax.input[0]
    converted: onnx.ModelProto = convert_float_to_float16(
        prepared, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *FLOAT32_OPS]
    )
    converted.graph.node.append(softmax)
    converted.graph.output[0].CopyFrom(scores)
    # The converter puts its casts at the end of the list of nodes.
    OnnxModel(converted).topological_sort(is_deterministic=True)
    return converted


def imitate_fp16(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 copy that rounds weights and every result to float16, as a GPU does that adds up in float32.

    ONNX Runtime's CPU runs the model of `to_fp16` in float32 from end to end, with rounded weights: what float16
    does to activations, overflow above all, shows in this copy.
    """
    import numpy as np
    import onnx

    copied = _copy(proto)
    graph = copied.graph
    with np.errstate(over="ignore"):
        for weights in graph.initializer:
            if weights.data_type == onnx.TensorProto.FLOAT:
                rounded = onnx.numpy_helper.to_array(weights).astype(np.float16).astype(np.float32)
                weights.CopyFrom(onnx.numpy_helper.from_array(rounded, weights.name))
    floats = {
        info.name
        for info in onnx.shape_inference.infer_shapes(copied).graph.value_info
        if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    nodes = list(graph.node)
    del graph.node[:], graph.value_info[:]
    for node in nodes:
        casts = []
        for position, name in enumerate(node.output):
            if name in floats:
                node.output[position] = f"{name}_exact"
                casts += [
                    onnx.helper.make_node("Cast", [f"{name}_exact"], [f"{name}_fp16"], to=onnx.TensorProto.FLOAT16),
                    onnx.helper.make_node("Cast", [f"{name}_fp16"], [name], to=onnx.TensorProto.FLOAT),
                ]
        graph.node.extend([node, *casts])
    return copied


def to_int8(
    proto: onnx.ModelProto, batches: Iterable[Clips], calibration: Calibration | None = None
) -> onnx.ModelProto:
    """A copy with Conv and Gemm quantised to 8 bits; their sums, biases and all else stay float32.

    Activations have one scale a tensor, chosen on `batches` of uint8 clips [B, 3, T, H, W]; weights have one
    an output channel. The exporter has folded BatchNorm into the convolutions before.

    Raises:
        HarError: there are no clips to calibrate on.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        create_calibrator,
        quantize_static,
    )
    from onnxruntime.quantization.calibrate import save_tensors_data
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    calibration = calibration or Calibration()
    method = {"percentile": CalibrationMethod.Percentile, "entropy": CalibrationMethod.Entropy}[calibration.method]
    options: dict[str, Any] = {"symmetric": True, "num_bins": HISTOGRAM_BINS}
    if calibration.method == "percentile":
        options["percentile"] = calibration.percentile
    prepared = _copy(proto)
    # Else every call logs advice to fold BatchNorm, which the exporter has done.
    add_pre_process_metadata(prepared)
    # quantize_static would hold the activations of all clips at once and knows no number of bins: it gets the
    # ranges ready-made, in its own file format.
    with tempfile.TemporaryDirectory(prefix="har_assets_int8_") as name, contextlib.redirect_stdout(io.StringIO()):
        folder = Path(name)
        onnx.save(prepared, folder / "fp32.onnx")
        calibrator = create_calibrator(
            folder / "fp32.onnx",
            QUANTISED_OPS,
            augmented_model_path=str(folder / "augmented.onnx"),
            calibrate_method=method,
            providers=["CPUExecutionProvider"],
            extra_options=options,
        )
        input_name = proto.graph.input[0].name
        for clips_BCTHW in batches:
            calibrator.collect_data(_Once({input_name: clips_BCTHW}))
        if not calibrator.collector:
            raise HarError("There are no decoded clips to calibrate int8 on: choose another precision.")
        save_tensors_data(calibrator.compute_data(), folder / "ranges.json")
        quantize_static(
            folder / "fp32.onnx",
            folder / "int8.onnx",
            None,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED_OPS,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
            calibration_cache_path=folder / "ranges.json",
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                # TensorRT's parser refuses a quantised bias.
                "QuantizeBias": False,
                # A pair behind a layer as well would round the sums before the ReLU and keep TensorRT from fusing both.
                "OpTypesToExcludeOutputQuantization": QUANTISED_OPS,
            },
        )
        return onnx.load(folder / "int8.onnx")


class _Once:
    """ONNX Runtime's calibration reader of one batch."""

    def __init__(self, feed: dict[str, Clips]) -> None:
        self._feeds: Iterator[dict[str, Clips]] = iter([feed])

    def get_next(self) -> dict[str, Clips] | None:
        """The batch, then None."""
        return next(self._feeds, None)


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copied = type(proto)()
    copied.CopyFrom(proto)
    return copied
