"""Networks by name. Each maps float clips_BCTHW (normalised) to logits_BK.

B batch, C channels (3), T frames, H height, W width, K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from har_assets.errors import HarError


class Cnn3d(nn.Module):
    """Three layers of 3D convolution: 3 -> 16 -> 32 -> 64 channels, global average pool, linear.

    Each layer is Conv3d 3x3x3, BatchNorm, ReLU, MaxPool (1,2,2): time is never pooled before the
    end, so that the direction and the tempo of a motion reach the last layer.
    """

    def __init__(self, num_classes: int, *, dropout: float = 0.0, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in widths:
            layers += [
                nn.Conv3d(channels, width, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm3d(width),
                nn.ReLU(inplace=True),
                nn.MaxPool3d(kernel_size=(1, 2, 2)),
            ]
            channels = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """Normalised float clips [B, 3, T, H, W] to logits [B, K]."""
        features_BCTHW: Tensor = self.features(clips_BCTHW)
        pooled_BC = features_BCTHW.mean(dim=(2, 3, 4))
        logits_BK: Tensor = self.head(self.dropout(pooled_BC))
        return logits_BK


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "cnn3d": Cnn3d,
}
"""Name in the configuration -> constructor(num_classes, dropout=...)."""


def build_network(name: str, num_classes: int, *, dropout: float = 0.0) -> nn.Module:
    """The network of that name, freshly initialised; HarError names the known ones."""
    if name not in NETWORKS:
        raise HarError(f"There is no network {name!r}: choose one of {', '.join(sorted(NETWORKS))}.")
    return NETWORKS[name](num_classes, dropout=dropout)


class Normalise(nn.Module):
    """uint8 clips 0..255 to float clips by the mean and standard deviation of each channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        # (x/255 - mean) / std as one multiplication and one addition
        scale_C = 1.0 / (255.0 * torch.tensor(std))
        offset_C = -torch.tensor(mean) / torch.tensor(std)
        self.register_buffer("scale", scale_C.view(3, 1, 1, 1), persistent=False)
        self.register_buffer("offset", offset_C.view(3, 1, 1, 1), persistent=False)

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """uint8 or float clips 0..255 [B, 3, T, H, W] to normalised float of the same shape."""
        return clips_BCTHW.to(self.scale.dtype) * self.scale + self.offset  # type: ignore[operator, arg-type]
