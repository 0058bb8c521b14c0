from pathlib import Path

import numpy as np
import onnx
import pytest

from har_assets.errors import HarError
from har_assets.export.onnx import read_onnx, write_onnx
from har_assets.export.precision import (
    HISTOGRAM_BINS,
    Calibration,
    imitate_fp16,
    precision_of,
    to_fp16,
    to_int8,
)
from har_assets.runtime import open_model
from har_assets.video.sampling import Clips


def clips(seed: int, count: int = 8) -> Clips:
    """uint8 clips [count, 3, 4, 16, 16] for the tiny network."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 4, 16, 16), dtype=np.uint8)


@pytest.fixture(scope="module")
def tiny_proto(tiny_onnx: Path) -> onnx.ModelProto:
    return read_onnx(tiny_onnx)[0]


@pytest.fixture(scope="module")
def tiny_int8(tiny_proto: onnx.ModelProto) -> onnx.ModelProto:
    return to_int8(tiny_proto, [clips(1), clips(2)])


def scores(proto: onnx.ModelProto, source: Path, folder: Path) -> np.ndarray:
    """Scores [8, K] of a conversion, written and loaded as a published file is."""
    _, spec, provenance = read_onnx(source)
    copied = onnx.ModelProto()
    copied.CopyFrom(proto)
    path = write_onnx(copied, spec, provenance, folder / "model.onnx")
    return open_model(path, "onnxruntime_cpu").predict(clips(0))


def test_fp16_keeps_uint8_in_and_float32_out(tiny_proto: onnx.ModelProto, tiny_onnx: Path, tmp_path: Path) -> None:
    converted = to_fp16(tiny_proto)
    assert (precision_of(tiny_proto), precision_of(converted)) == ("fp32", "fp16")
    assert converted.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert converted.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    types = {item.name: item.data_type for item in converted.graph.initializer if "network" in item.name}
    assert set(types.values()) == {onnx.TensorProto.FLOAT16}
    # Neither the sum over a clip nor the scores are rounded to float16.
    producers = {name: node.op_type for node in converted.graph.node for name in node.output}
    (pool,) = [node for node in converted.graph.node if node.op_type == "ReduceMean"]
    assert producers[pool.input[0]] == "Cast"
    assert producers["scores"] == "Softmax"
    np.testing.assert_allclose(
        scores(converted, tiny_onnx, tmp_path), open_model(tiny_onnx, "onnxruntime_cpu").predict(clips(0)), atol=1e-3
    )


def test_the_imitation_of_fp16_overflows_where_float16_does(
    tiny_proto: onnx.ModelProto, tiny_onnx: Path, tmp_path: Path
) -> None:
    exact_BK = open_model(tiny_onnx, "onnxruntime_cpu").predict(clips(0))
    np.testing.assert_allclose(scores(imitate_fp16(tiny_proto), tiny_onnx, tmp_path), exact_BK, atol=1e-3)
    # The first layer a million times as large, the second as much smaller: float32 does not mind.
    scaled = onnx.ModelProto()
    scaled.CopyFrom(tiny_proto)
    convolutions = [item for item in scaled.graph.initializer if len(item.dims) == 5]
    for item, factor in zip(convolutions, (1e6, 1e-6), strict=False):
        array = onnx.numpy_helper.to_array(item) * np.float32(factor)
        item.CopyFrom(onnx.numpy_helper.from_array(array, item.name))
    np.testing.assert_allclose(scores(scaled, tiny_onnx, tmp_path), exact_BK, atol=1e-4)
    assert not np.isfinite(scores(imitate_fp16(scaled), tiny_onnx, tmp_path)).all()


def test_int8_quantises_inputs_and_weights_of_conv_and_gemm_symmetrically(tiny_int8: onnx.ModelProto) -> None:
    assert precision_of(tiny_int8) == "int8"
    graph = tiny_int8.graph
    producer = {name: node for node in graph.node for name in node.output}
    values = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 4
    for layer in layers:
        activation, weight = producer[layer.input[0]], producer[layer.input[1]]
        assert (activation.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert values[activation.input[1]].size == 1
        assert values[weight.input[0]].dtype == np.int8
        assert values[weight.input[1]].size == values[weight.input[0]].shape[0]  # a scale an output channel
        assert not values[activation.input[2]].any()
        assert not values[weight.input[2]].any()
        if len(layer.input) == 3:
            assert values[layer.input[2]].dtype == np.float32  # TensorRT refuses a quantised bias
        assert layer.output[0] in {node.input[0] for node in graph.node if node.op_type in ("Relu", "Softmax")}
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == 4


def test_int8_answers_like_float32(tiny_int8: onnx.ModelProto, tiny_onnx: Path, tmp_path: Path) -> None:
    np.testing.assert_allclose(
        scores(tiny_int8, tiny_onnx, tmp_path), open_model(tiny_onnx, "onnxruntime_cpu").predict(clips(0)), atol=5e-3
    )


def test_conversions_are_the_same_each_time_and_leave_their_source(
    tiny_proto: onnx.ModelProto, tiny_int8: onnx.ModelProto
) -> None:
    before = tiny_proto.SerializeToString(deterministic=True)
    assert to_fp16(tiny_proto).SerializeToString(deterministic=True) == to_fp16(tiny_proto).SerializeToString(
        deterministic=True
    )
    again = to_int8(tiny_proto, [clips(1), clips(2)])
    assert again.SerializeToString(deterministic=True) == tiny_int8.SerializeToString(deterministic=True)
    assert tiny_proto.SerializeToString(deterministic=True) == before


def activation_scales(proto: onnx.ModelProto) -> list[float]:
    names = {node.input[1] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    return [float(onnx.numpy_helper.to_array(item)) for item in proto.graph.initializer if item.name in names]


def test_calibration_cuts_off_what_it_is_told_to(tiny_proto: onnx.ModelProto) -> None:
    batches = [clips(1), clips(2)]
    everything = activation_scales(to_int8(tiny_proto, batches, Calibration(percentile=100)))
    most = activation_scales(to_int8(tiny_proto, batches, Calibration(percentile=99)))
    entropy = activation_scales(to_int8(tiny_proto, batches, Calibration(method="entropy")))
    assert sum(most) < sum(everything)
    # With as many bins as quantised values the entropy method would always keep the whole range.
    assert HISTOGRAM_BINS > 128
    assert sum(entropy) < sum(everything)


def test_calibration_needs_clips_and_a_known_method(tiny_proto: onnx.ModelProto) -> None:
    with pytest.raises(HarError, match="no decoded clips to calibrate int8 on"):
        to_int8(tiny_proto, [])
    with pytest.raises(HarError, match="choose percentile or entropy"):
        Calibration(method="minmax")
    with pytest.raises(HarError, match="choose one above 50"):
        Calibration(percentile=0.5)
