"""Options of a benchmark of runtimes."""

from har_assets.errors import HarError
from har_assets.options import Options


class BenchmarkOptions(Options):
    """How long and on what is measured."""

    batch_sizes: list[int] = [1, 8, 32]
    """Clips a call."""
    rounds: int = 20
    """Times that each runtime is asked for each batch size, in turn with the others."""
    max_seconds: float = 30.0
    """Seconds of a runtime and batch size after which no further round is asked; three rounds are always made."""
    windows: int = 4
    """Temporal clips a video."""

    def check(self) -> None:
        """HarError for a number below 1."""
        if not self.batch_sizes or min(self.batch_sizes) < 1 or self.rounds < 1 or self.windows < 1:
            raise HarError("A benchmark needs batch sizes, rounds and windows of 1 or more: mend its configuration.")
