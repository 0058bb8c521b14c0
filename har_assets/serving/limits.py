"""What a request to a served model may ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from har_assets.errors import HarError


@dataclass(frozen=True)
class ServingLimits:
    """What a request may ask for. Travels with the model as its configuration."""

    max_video_bytes: int = 32_000_000
    """Size of one video, decoded from base64 or on disk."""
    max_rows: int = 16
    """Videos a request."""
    max_windows: int = 16
    """Clips of each video that may be asked for."""
    max_frames: int = 9_000
    """Frames of one video: five minutes at 30 a second."""
    max_seconds: float = 300.0
    """Duration of one video."""
    max_pixels: int = 8_912_896
    """Height times width of its picture: 4096x2176."""
    decode_timeout_s: float = 20.0
    """Seconds that one video may take to be decoded."""
    request_timeout_s: float = 50.0
    """Seconds that a request may take, waiting for its turn included. MLflow gives up after 60."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read from a model configuration, whose other fields are ignored; HarError for what is no positive number."""
        names = {field.name for field in dataclasses.fields(cls)}
        found = {name: value for name, value in config.items() if name in names}
        for name, value in found.items():
            if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
                raise HarError(f"{name} is {value!r} in the configuration of the model: choose a number above 0.")
        return cls(**found)
