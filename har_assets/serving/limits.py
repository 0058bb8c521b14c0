"""Limits of a request to a served model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ValidationError

from har_assets.errors import HarError
from har_assets.options import Options


class ServingLimits(Options):
    """Limits of a request. They travel with the model as its configuration."""

    max_video_bytes: int = 32_000_000
    """Largest video, bytes of the file."""
    max_rows: int = 16
    """Most videos a request."""
    max_windows: int = 16
    """Most clips of a video that a request may ask for."""
    # Five minutes at 30 a second.
    max_frames: int = 9_000
    """Most frames of a video."""
    max_seconds: float = 300.0
    """Longest duration of a video."""
    # 4096x2176
    max_pixels: int = 8_912_896
    """Largest picture, height times width."""
    decode_timeout_s: float = 20.0
    """Seconds that one video may take to be decoded."""
    request_timeout_s: float = 50.0
    """Seconds that a request may take, waiting for its turn included; MLflow's server gives up after 60."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read from a model configuration, whose other fields are ignored; HarError for what is no positive number."""
        found = {name: value for name, value in config.items() if name in cls.model_fields}
        for name, value in found.items():
            if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
                raise HarError(f"{name} is {value!r} in the configuration of the model: choose a number above 0.")
        try:
            return cls(**found)
        except ValidationError as error:
            wrong = str(error.errors()[0]["loc"][0])
            raise HarError(
                f"{wrong} is {found[wrong]!r} in the configuration of the model: choose a whole number above 0."
            ) from None
