"""Options of test_predictions and evaluation_report, and the names of the files of reports."""

from typing import ClassVar

from har_assets.options import Options
from har_assets.runtime.tables import BENCHMARK_COLUMNS, PREDICTION_COLUMNS
from har_assets.system.tables import Table

PREDICTIONS = "test_predictions.csv"
PREDICTION_TABLE = Table(PREDICTIONS, PREDICTION_COLUMNS)
BENCHMARK_TABLE = Table("runtime_benchmark.csv", BENCHMARK_COLUMNS)
PAGE = "evaluation_report.html"


class PredictionOptions(Options):
    """How test videos are scored."""

    not_content: ClassVar[frozenset[str]] = frozenset({"shard_clips"})

    runtime: str = "onnx"
    """`onnx` scores with the deployed model, `checkpoint` with PyTorch."""
    windows: int = 4
    """Temporal clips a video, spread evenly; their scores are averaged."""
    shard_clips: int = 256
    """Videos that one node of a Ray cluster scores at a time."""


class ReportOptions(Options):
    """Choice of the single videos on the page."""

    mistakes: int = 12
    """Wrong answers to show, the most confident first."""
    right: int = 4
    """Right answers to show, one a class."""
    saliency: bool = True
    """Show what spoke for each answer (Grad-CAM on the checkpoint); costs a forward and a backward pass a video."""
