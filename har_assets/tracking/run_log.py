"""The interface by which a step writes into the MLflow run of its model."""

from pathlib import Path

from har_assets.tracking.client import FINISHED
from har_assets.tracking.outbox import Outbox
from har_assets.tracking.tags import TESTED_TAG


class RunLog:
    """Writes figures, tags and files of a step into its MLflow run, or nowhere where there is no run."""

    def __init__(self, outbox: Outbox | None) -> None:
        self._outbox = outbox
        self.run_id = outbox.address.run_id if outbox else ""
        """The MLflow run; empty without one."""
        self.ends_as = FINISHED
        """State of the step at the end of a block that raises nothing."""

    def metrics(self, values: dict[str, float]) -> None:
        """Log figures."""
        if self._outbox:
            self._outbox.metrics(values, step=0)

    def test_figures(self, values: dict[str, float], onnx_sha256: str) -> None:
        """Log figures and say of which ONNX file they are, for the logged models that have it; empty: of none."""
        self.tags({TESTED_TAG: ""})  # until both are there nobody takes one for the other's
        self.metrics(values)
        self.tags({TESTED_TAG: onnx_sha256})

    def tags(self, values: dict[str, str]) -> None:
        """Set tags."""
        if self._outbox:
            self._outbox.tags(values)

    def file(self, path: Path) -> None:
        """Upload a file to the top of the run's files."""
        if self._outbox:
            self._outbox.file(path)
