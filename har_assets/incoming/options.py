"""Options of incoming_video_predictions."""

from typing import ClassVar

from har_assets.options import Options


class IncomingOptions(Options):
    """How new videos are scored."""

    not_content: ClassVar[frozenset[str]] = frozenset({"runtime", "batch", "workers", "timeout_s", "film_timeout_s"})

    runtime: str = "auto"
    """The runtime of the model; auto takes the fastest that works here."""
    windows: int = 4
    """Temporal clips a video, spread evenly; their scores are averaged."""
    batch: int = 16
    """Clips that are scored at once."""
    workers: int = 0
    """Decoding processes; 0 takes one a core."""
    timeout_s: float = 120.0
    """Seconds that decoding one video may take."""
    film_from_s: float = 60.0
    """Videos that claim to be longer than so many seconds are films: cut into windows from end to end, and predicted
    as a timeline of segments; 0 predicts videos of any length by their few windows."""
    film_timeout_s: float = 14400.0
    """Seconds that one film may take."""
