"""3D convolutions and poolings computed frame by frame in 2D, where a GPU has fast kernels for these alone.

cuDNN has no fast 3D convolution of three channels, and PyTorch's 3D max pooling takes one element a thread. The
results are the same sums and maxima.

B batch, C channels, T frames, H height, W width, O output channels, N = B * T.
"""

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

TENSOR_CORE_CHANNELS = 16
"""Tensor cores want input channels in multiples of this."""

Pads = tuple[int, int]
"""Filling before and after an axis."""


def by_frame(x_BCTHW: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function of images to every frame: a view only, for tensors in the order of channels_last_3d."""
    batch, frames = x_BCTHW.shape[0], x_BCTHW.shape[2]
    y_NCHW = function(x_BCTHW.transpose(1, 2).flatten(0, 1))
    return y_NCHW.view(batch, frames, *y_NCHW.shape[1:]).transpose(1, 2)


def few_channel_conv3d(x_BCTHW: Tensor, weight_OCTHW: Tensor, stride: tuple[int, int, int], pads: list[Pads]) -> Tensor:
    """3D convolution of few channels, zeros before and after each of T, H and W: float [B, O, T', H', W'].

    The frames under the kernel lie side by side as channels, filled up with zeros to a multiple of
    TENSOR_CORE_CHANNELS, for one 2D convolution.
    """
    kernel_T = weight_OCTHW.shape[2]
    rest = -kernel_T * weight_OCTHW.shape[1] % TENSOR_CORE_CHANNELS
    (before_H, after_H), (before_W, after_W) = pads[1:]
    symmetric = before_H == after_H and before_W == after_W
    padding = (before_H, before_W) if symmetric else (0, 0)  # the convolution's own costs nothing
    padded_BCTHW = F.pad(x_BCTHW, (*((0,) * 4 if symmetric else (before_W, after_W, before_H, after_H)), *pads[0]))
    stacked_BCTHW = torch.cat(_under_kernel(padded_BCTHW, kernel_T, stride[0]), dim=1)
    stacked_BCTHW = F.pad(stacked_BCTHW, (0, 0, 0, 0, 0, 0, 0, rest))
    weight_OCHW = F.pad(weight_OCTHW.transpose(1, 2).flatten(1, 2), (0, 0, 0, 0, 0, rest))
    return by_frame(stacked_BCTHW, lambda x_NCHW: F.conv2d(x_NCHW, weight_OCHW, stride=stride[1:], padding=padding))


def max_pool3d(x_BCTHW: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int], pads: list[Pads]) -> Tensor:
    """Maximum over windows, first within each frame, then over frames: float [B, C, T', H', W'].

    `pads` are places without a value before and after each of T, H and W, as the rule SAME gives them. Among
    equal frames the gradient is shared, where 3D pooling gives it to the first.
    """

    def within_frame(x_NCHW: Tensor) -> Tensor:
        return F.max_pool2d(x_NCHW, kernel[1:], stride[1:], (pads[1][0], pads[2][0]), ceil_mode=True)

    pooled_BCTHW = by_frame(x_BCTHW, within_frame) if kernel[1:] != (1, 1) else x_BCTHW
    if kernel[0] == 1:
        return pooled_BCTHW[:, :, :: stride[0]]
    padded_BCTHW = F.pad(pooled_BCTHW, (0, 0, 0, 0, *pads[0]), value=float("-inf"))
    return reduce(torch.maximum, _under_kernel(padded_BCTHW, kernel[0], stride[0]))


def _under_kernel(padded_BCTHW: Tensor, kernel_T: int, stride_T: int) -> list[Tensor]:
    """For each place of the kernel, the frames that come under it: kernel_T views [B, C, T', H, W]."""
    frames = (padded_BCTHW.shape[2] - kernel_T) // stride_T + 1
    last = (frames - 1) * stride_T + 1
    return [padded_BCTHW[:, :, shift : shift + last : stride_T] for shift in range(kernel_T)]
