"""Augmentation on the device, a sample at a time, without Python in the loop over samples.

Nothing here draws random numbers: each clip comes with a row of them, drawn by the order of the epoch
(`model/data.py`). What is made of a clip therefore depends on the seed, the epoch and the clip alone, on
one device as on eight, after a resume as without one.

B batch, C channels (3), T frames, H height, W width, D draws.
"""

from enum import IntEnum

import torch
from torch import Tensor


class Draw(IntEnum):
    """Columns of `draws_BD`: numbers from 0 to 1 (1 excluded), what each is used for.

    A new one goes to the end: it is drawn by its name (`model/data.py`) and leaves the others as they are.
    """

    OFFSET = 0
    """First frame of the window (used where frames are read)."""
    STRIDE = 1
    """Every how many frames of the cache one is taken (used where frames are read)."""
    TOP = 2
    LEFT = 3
    ZOOM = 4
    FLIP = 5
    GAIN = 6
    SHIFT = 7
    SATURATION = 8


LUMA = (0.299, 0.587, 0.114)
"""Share of R, G and B in the brightness of a pixel, ITU-R BT.601."""


def augment(
    clips_BCTHW: Tensor,
    draws_BD: Tensor,
    may_flip_B: Tensor,
    *,
    height: int,
    width: int,
    zoom: float = 0.0,
    brightness: float = 0.0,
    saturation: float = 0.0,
) -> Tensor:
    """A random window, mirrored and coloured at random, of each clip; the same for all frames of a clip.

    Args:
        clips_BCTHW: uint8 clips at least as large as the window.
        draws_BD: float32, columns as in `Draw`.
        may_flip_B: bool, False for clips that must not be mirrored.
        height: of the window that is returned, pixels.
        width: of the window that is returned, pixels.
        zoom: the region that becomes the window is up to this share smaller or larger than it, 0..1; above 0
            frames are interpolated.
        brightness: strength of a random scale and shift, share of the range.
        saturation: strength of a random mix of each pixel with its grey.

    Returns:
        float32 clips 0..255, [B, C, T, height, width] in the memory order of channels_last_3d.
    """
    full_height, full_width = clips_BCTHW.shape[3:]
    size_B = 1.0 + zoom * (2.0 * draws_BD[:, Draw.ZOOM] - 1.0)
    size_B = size_B.clamp(max=min(full_height / height, full_width / width))
    mirrored_B = (draws_BD[:, Draw.FLIP] < 0.5) & may_flip_B
    rows_BH = _places(draws_BD[:, Draw.TOP], size_B, height, full_height, whole=zoom == 0)
    columns_BW = _places(draws_BD[:, Draw.LEFT], size_B, width, full_width, whole=zoom == 0)
    columns_BW = torch.where(mirrored_B[:, None], columns_BW.flip(1), columns_BW)
    if zoom == 0:
        window_BTHWC = _pixels(clips_BCTHW, rows_BH.long(), columns_BW.long()).float()
    else:
        window_BTHWC = _interpolated(clips_BCTHW, rows_BH, columns_BW)
    if brightness:
        gain_B = 1.0 + brightness * (2.0 * draws_BD[:, Draw.GAIN] - 1.0)
        shift_B = 255.0 * brightness * (2.0 * draws_BD[:, Draw.SHIFT] - 1.0)
        window_BTHWC = window_BTHWC * gain_B.view(-1, 1, 1, 1, 1) + shift_B.view(-1, 1, 1, 1, 1)
    if saturation:
        grey_BTHW = (window_BTHWC * window_BTHWC.new_tensor(LUMA)).sum(dim=-1, keepdim=True)
        share_B = saturation * (2.0 * draws_BD[:, Draw.SATURATION] - 1.0)
        window_BTHWC = window_BTHWC + share_B.view(-1, 1, 1, 1, 1) * (window_BTHWC - grey_BTHW)
    if brightness or saturation:
        window_BTHWC = window_BTHWC.clamp(0.0, 255.0)
    return window_BTHWC.permute(0, 4, 1, 2, 3)


def _places(draw_B: Tensor, size_B: Tensor, length: int, full: int, *, whole: bool) -> Tensor:
    """Where the `length` pixels of a window lie on an axis of `full` pixels: float [B, length], within 0..full-1."""
    pixels_L = torch.arange(length, device=draw_B.device, dtype=torch.float32)
    if whole:
        return (draw_B * (full - length + 1)).floor()[:, None] + pixels_L
    start_B = draw_B * (full - size_B * length)
    # The centre of pixel n of the window is that of the n-th part of the region.
    return (start_B[:, None] + (pixels_L + 0.5) * size_B[:, None] - 0.5).clamp(0.0, full - 1.0)


def _pixels(clips_BCTHW: Tensor, rows_BH: Tensor, columns_BW: Tensor) -> Tensor:
    """The pixels at the given rows and columns of each clip: [B, T, H, W, C]."""
    device = clips_BCTHW.device
    samples_B = torch.arange(clips_BCTHW.shape[0], device=device)[:, None, None, None]
    frames_T = torch.arange(clips_BCTHW.shape[2], device=device)[:, None, None]
    clips_BTHWC = clips_BCTHW.permute(0, 2, 3, 4, 1)
    return clips_BTHWC[samples_B, frames_T, rows_BH[:, None, :, None], columns_BW[:, None, None, :]]


def _interpolated(clips_BCTHW: Tensor, rows_BH: Tensor, columns_BW: Tensor) -> Tensor:
    """Bilinear values between pixels: float [B, T, H, W, C]."""
    above_BH, left_BW = rows_BH.floor(), columns_BW.floor()
    below_BH = (above_BH + 1).clamp(max=clips_BCTHW.shape[3] - 1)
    right_BW = (left_BW + 1).clamp(max=clips_BCTHW.shape[4] - 1)
    down_B1H11 = (rows_BH - above_BH)[:, None, :, None, None]
    across_B11W1 = (columns_BW - left_BW)[:, None, None, :, None]

    def row_of(rows_BH: Tensor) -> Tensor:
        left = _pixels(clips_BCTHW, rows_BH.long(), left_BW.long()).float()
        right = _pixels(clips_BCTHW, rows_BH.long(), right_BW.long()).float()
        return left + across_B11W1 * (right - left)

    top = row_of(above_BH)
    return top + down_B1H11 * (row_of(below_BH) - top)
