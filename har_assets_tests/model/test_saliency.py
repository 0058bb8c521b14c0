"""Grad-CAM: it looks where the reason for a class lies, in space and in time."""

import numpy as np
import pytest
import torch

from har_assets.errors import HarError
from har_assets.model.lightning import VideoActionModel
from har_assets.model.networks import NETWORKS
from har_assets.model.saliency import class_saliency, why_no_saliency
from har_assets.model.spec import ModelSpec


def model_of(network: str, num_frames: int = 8, size: int = 32, **recipe: float) -> VideoActionModel:
    torch.manual_seed(0)
    spec = ModelSpec(
        labels=("dark", "bright", *"cdefgh"),
        network=network,
        num_frames=num_frames,
        decode_height=size,
        decode_width=size,
        frame_height=size,
        frame_width=size,
    )
    return VideoActionModel.from_spec(spec, **recipe).eval()


@pytest.fixture
def bright_detector() -> VideoActionModel:
    """A cnn3d whose first channel hands on how bright the red channel is, and whose class `bright` asks for that."""
    model = model_of("cnn3d")
    with torch.no_grad():
        for layer in (0, 4, 8):
            weight = model.network.features[layer].weight
            weight.zero_()
            weight[0, 0, 1, 1, 1] = 1
        model.network.head.weight.zero_()
        model.network.head.weight[1, 0] = 1
        model.network.head.weight[0, 0] = -1
    return model


def test_the_heat_lies_on_the_reason_in_space_and_time(bright_detector: VideoActionModel) -> None:
    clips_BCTHW = np.zeros((3, 3, 8, 32, 32), np.uint8)
    clips_BCTHW[1, :, 5:7, 4:12, 20:28] = 255
    found = class_saliency(bright_detector, clips_BCTHW, 1)
    assert found.clip == 1
    assert found.heat_THW.shape == (8, 32, 32)
    assert (found.heat_THW.min(), found.heat_THW.max()) == (0.0, 1.0)
    frame, row, column = np.unravel_index(found.heat_THW.argmax(), found.heat_THW.shape)
    assert frame in (5, 6)
    assert 4 <= row < 12
    assert 20 <= column < 28
    assert found.heat_THW[5:7, 4:12, 20:28].sum() > 0.5 * found.heat_THW.sum()


def test_what_speaks_against_a_class_is_no_heat(bright_detector: VideoActionModel) -> None:
    clips_BCTHW = np.full((1, 3, 8, 32, 32), 255, np.uint8)
    assert not class_saliency(bright_detector, clips_BCTHW, 0).heat_THW.any()


@pytest.mark.parametrize("network", [name for name, row in NETWORKS.items() if row.last_convolution])
def test_every_network_with_convolutions_at_its_end_can_be_explained(network: str) -> None:
    # A frozen backbone has no gradients of its own.
    model = model_of(network, num_frames=NETWORKS[network].smallest_THW[0] + 7, backbone_rate=0.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    clips_BCTHW = np.random.default_rng(0).integers(0, 256, (2, *model.spec.clip_shape_CTHW), np.uint8)
    found = [class_saliency(model, clips_BCTHW, index) for index in range(8)]
    assert all(each.heat_THW.shape == model.spec.clip_shape_CTHW[1:] for each in found)
    assert any(each.heat_THW.max() == 1 for each in found)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_attention_is_refused_in_words() -> None:
    assert why_no_saliency("cnn3d") == ""
    model = model_of("swin3d_t")
    with pytest.raises(HarError, match="swin3d_t has no last convolution"):
        class_saliency(model, np.zeros((1, *model.spec.clip_shape_CTHW), np.uint8), 0)
