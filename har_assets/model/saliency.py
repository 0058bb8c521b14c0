"""Where and when in a clip a network found its reasons for a class: Grad-CAM on the last convolutions.

The feature maps of the last convolutions are added up, each weighted by the mean gradient of the class's logit with
respect to it; what is positive speaks for the class. It is as coarse as these maps are (for cnn3d a quarter of the
frame's size and every frame, for i3d a 32nd and every eighth frame) and is scaled up to the clip.

Reference:
    Selvaraju et al. 2017, "Grad-CAM", https://arxiv.org/abs/1610.02391; computed by captum's LayerGradCam

B clips, C channels (3), T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from numpy.typing import NDArray

from har_assets.errors import HarError
from har_assets.model.lightning import VideoActionModel
from har_assets.model.networks import NETWORKS, find_network


@dataclass(frozen=True)
class Saliency:
    """Evidence for a class in one of several clips."""

    clip: int
    """Index of the clip: the one with the highest score of the class."""
    score: float
    """That score, 0..1."""
    heat_THW: NDArray[np.float32]
    """0..1, 1 where most speaks for the class; zero all over where nothing does."""


def why_no_saliency(network: str) -> str:
    """Why a network cannot be explained by Grad-CAM, a clause; empty where it can."""
    if find_network(network).last_convolution:
        return ""
    able = ", ".join(name for name, row in NETWORKS.items() if row.last_convolution)
    return f"{network} has no last convolution (these have: {able})"


def class_saliency(model: VideoActionModel, clips_BCTHW: NDArray[np.uint8], label_index: int) -> Saliency:
    """Evidence for a class in the clip that scores highest for it.

    Args:
        model: in evaluation mode, on any device.
        clips_BCTHW: uint8 windows [B, 3, T, H, W] of one video.
        label_index: of the class, 0..K-1.

    Raises:
        HarError: the network has no convolutions at its end.
    """
    if reason := why_no_saliency(model.spec.network):
        raise HarError(f"There is no saliency, as {reason}.")
    clips = torch.from_numpy(np.ascontiguousarray(clips_BCTHW)).to(model.device)
    with torch.inference_mode():
        scores_B = model(clips).float().softmax(dim=1)[:, label_index]
    best = int(scores_B.argmax())
    # Float, and part of the graph: a frozen backbone has no other gradient.
    clip_1CTHW = clips[best : best + 1].float().requires_grad_()
    layer = model.network.get_submodule(find_network(model.spec.network).last_convolution)
    heat_11thw = LayerGradCam(model, layer).attribute(clip_1CTHW, target=label_index, relu_attributions=True)
    heat_11THW = LayerAttribution.interpolate(heat_11thw, tuple(clips.shape[2:]), "trilinear")
    heat_THW = heat_11THW[0, 0].detach().float().cpu().numpy()
    most = float(heat_THW.max())
    return Saliency(best, float(scores_B[best]), heat_THW / most if most > 0 else heat_THW)
