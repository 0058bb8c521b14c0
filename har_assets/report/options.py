"""Options of evaluation_report."""

from har_assets.options import Options


class ReportOptions(Options):
    """What the page shows of single videos."""

    mistakes: int = 12
    """Wrong answers to show, the most confident first."""
    right: int = 4
    """Right answers to show, one a class."""
    saliency: bool = True
    """Show what spoke for each answer (Grad-CAM on the checkpoint); costs a forward and a backward pass a video."""
