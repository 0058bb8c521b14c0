"""Augmentation on the device, a sample at a time, without Python in the loop over samples."""

import torch
from torch import Tensor


def random_crop(clips_BCTHW: Tensor, height: int, width: int, generator: torch.Generator | None = None) -> Tensor:
    """Cut a window of `height` x `width` from each clip, another place for each, the same for all its frames.

    Takes and returns clips [B, C, T, H, W] of any dtype.
    """
    batch, _, _, full_height, full_width = clips_BCTHW.shape
    device = clips_BCTHW.device
    tops_B = torch.randint(full_height - height + 1, (batch,), generator=generator).to(device)
    lefts_B = torch.randint(full_width - width + 1, (batch,), generator=generator).to(device)
    rows_BH = tops_B[:, None] + torch.arange(height, device=device)
    columns_BW = lefts_B[:, None] + torch.arange(width, device=device)
    samples_B = torch.arange(batch, device=device)
    # The advanced indices come first in the result: [B, H, W, C, T].
    cropped_BHWCT = clips_BCTHW[samples_B[:, None, None], :, :, rows_BH[:, :, None], columns_BW[:, None, :]]
    return cropped_BHWCT.permute(0, 3, 4, 1, 2)


def random_flip(clips_BCTHW: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Mirror half of the clips left to right. Takes and returns clips [B, C, T, H, W] of any dtype."""
    flipped_B = (torch.rand(clips_BCTHW.shape[0], generator=generator) < 0.5).to(clips_BCTHW.device)
    return torch.where(flipped_B.view(-1, 1, 1, 1, 1), clips_BCTHW.flip(-1), clips_BCTHW)


def random_brightness(clips_BCTHW: Tensor, strength: float, generator: torch.Generator | None = None) -> Tensor:
    """Scale and shift the brightness of each clip by up to `strength` of its range.

    Takes float clips 0..255 [B, C, T, H, W] and returns the same shape and range.
    """
    shape = (clips_BCTHW.shape[0], 1, 1, 1, 1)
    gain = 1.0 + strength * (2.0 * torch.rand(shape, generator=generator) - 1.0)
    shift = 255.0 * strength * (2.0 * torch.rand(shape, generator=generator) - 1.0)
    return (clips_BCTHW * gain.to(clips_BCTHW.device) + shift.to(clips_BCTHW.device)).clamp(0.0, 255.0)
