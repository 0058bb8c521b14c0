"""A model's expectations of a video and its origin; both travel inside every model file."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Self

from har_assets.errors import ModelFileError
from har_assets.video.resize import COVER, RULES
from har_assets.video.sampling import Sampling

FORMAT_VERSION = 1
"""Raised when a field changes its meaning; a file of another version is refused."""

SPEC_KEY = "har_assets.spec"
PROVENANCE_KEY = "har_assets.provenance"


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to turn a video file into labelled scores, besides the weights.

    A video becomes clips as follows: the frame that is shown every `frame_stride / fps` seconds is kept, whatever the
    frame rate of the file, scaled by swscale's bilinear kernel and cut to `decode_height` x `decode_width` by the rule
    `resize`; windows of `num_frames` consecutive kept frames are taken, a short video padded by repeating its last
    frame; the centre `frame_height` x `frame_width` enters the network as uint8 RGB, which scales it to 0..1 and
    normalises it by `mean` and `std`.
    """

    labels: tuple[str, ...]
    """Class names in index order (K of them)."""
    network: str = "cnn3d"
    """Name in `har_assets.model.networks.NETWORKS`."""
    num_frames: int = 16
    """T: frames of a clip."""
    frame_stride: int = 2
    """Every how many frames of a video of `fps` frames a second one is kept."""
    fps: float = 30.0
    """Frames a second that `frame_stride` counts in. Models that were made before it was a field have 30."""
    resize: str = COVER
    """Rule of `har_assets.video.resize`. Models that were made before it was a field have `cover`."""
    decode_height: int = 128
    """Height of decoded frames, pixels."""
    decode_width: int = 171
    """Width of decoded frames, pixels."""
    frame_height: int = 112
    """H: height of the clip that enters the network, pixels."""
    frame_width: int = 112
    """W: width of the clip that enters the network, pixels."""
    mean: tuple[float, float, float] = (0.43216, 0.394666, 0.37645)
    """Mean of R, G, B on a 0..1 scale (Kinetics-400, as torchvision's video networks use)."""
    std: tuple[float, float, float] = (0.22803, 0.22145, 0.216989)
    """Standard deviation of R, G, B on a 0..1 scale."""

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ModelFileError(
                f"A model needs two or more different labels, got {len(self.labels)} "
                f"({len(set(self.labels))} different): check index_to_class.csv."
            )
        for name in ("num_frames", "frame_stride", "frame_height", "frame_width"):
            if getattr(self, name) < 1:
                raise ModelFileError(f"{name} is {getattr(self, name)}: choose 1 or more.")
        if not 0 < self.fps < math.inf:
            raise ModelFileError(f"fps is {self.fps}: choose more than 0.")
        if self.resize not in RULES:
            raise ModelFileError(f"There is no resize rule {self.resize!r}: choose {' or '.join(RULES)}.")
        if self.frame_height > self.decode_height or self.frame_width > self.decode_width:
            raise ModelFileError(
                f"A clip of {self.frame_height}x{self.frame_width} cannot be cut from frames of "
                f"{self.decode_height}x{self.decode_width}: choose a smaller frame size or a larger decode size."
            )

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.labels)

    @property
    def clip_shape_CTHW(self) -> tuple[int, int, int, int]:
        """Shape of one input clip: channels, frames, height, width."""
        return (3, self.num_frames, self.frame_height, self.frame_width)

    @property
    def sampling(self) -> Sampling:
        """The moments of a video whose frames are kept."""
        return Sampling(self.frame_stride, self.fps)

    @property
    def clip_s(self) -> float:
        """Seconds that a clip spans."""
        return self.num_frames * self.sampling.step_s

    def to_json(self) -> str:
        """One line of JSON, the same text for the same spec."""
        return json.dumps({"format": FORMAT_VERSION, **dataclasses.asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json` text; raise ModelFileError for anything else."""
        try:
            fields = json.loads(text)
            version = fields.pop("format")
            if version != FORMAT_VERSION:
                raise ModelFileError(
                    f"The model file has spec format {version}, this har_assets reads {FORMAT_VERSION}: "
                    "export it again with this version."
                )
            for name in ("labels", "mean", "std"):
                fields[name] = tuple(fields[name])
            return cls(**fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(
                f"The model spec cannot be read ({error}): export the model again with har_assets."
            ) from error


@dataclass(frozen=True)
class Provenance:
    """Where a model came from, down to the data hash. Strings are empty where nothing is known."""

    dataset: str = ""
    """`sample`, `hmdb51` or the name of the user's own data set."""
    synthetic: bool = False
    """True for the built-in sample: its figures say nothing about real videos."""
    data_version: str = ""
    """DataVersion of video_clips: DVC's md5 of data/ where DVC is used."""
    split: int = 0
    """Official split 1..3."""
    pretrained: str = ""
    """Weights that training started from: data set, file and the first digits of its SHA-256; empty from scratch."""
    mlflow_run_id: str = ""
    """MLflow run of this lineage."""
    git_commit: str = ""
    """Commit of the working tree that trained, with `-dirty` where it had changes."""

    def to_json(self) -> str:
        """One line of JSON, the same text for the same provenance."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `to_json` text; raise ModelFileError for anything else."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise ModelFileError(
                f"The model's provenance cannot be read ({error}): export the model again with har_assets."
            ) from error


def to_metadata(spec: ModelSpec, provenance: Provenance) -> dict[str, str]:
    """String pairs for a model file's own metadata (ONNX metadata_props, checkpoint, sidecar)."""
    return {SPEC_KEY: spec.to_json(), PROVENANCE_KEY: provenance.to_json()}


def from_metadata(metadata: dict[str, Any], source: str) -> tuple[ModelSpec, Provenance]:
    """Spec and provenance of a model file; `source` names the file in the error."""
    if SPEC_KEY not in metadata:
        raise ModelFileError(
            f"{source} carries no har_assets model spec: use a file that onnx_model, trt_engine or "
            "trained_checkpoint published."
        )
    return (
        ModelSpec.from_json(str(metadata[SPEC_KEY])),
        Provenance.from_json(str(metadata.get(PROVENANCE_KEY, "{}"))),
    )
