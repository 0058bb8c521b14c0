"""The interface by which a step writes into the MLflow run of its model."""

from pathlib import Path

from har_assets.tracking.outbox import Outbox


class RunLog:
    """Writes figures, tags and files of a step into its MLflow run, or nowhere where there is no run."""

    def __init__(self, outbox: Outbox | None) -> None:
        self._outbox = outbox
        self.run_id = outbox.address.run_id if outbox else ""
        """The MLflow run; empty without one."""

    def metrics(self, values: dict[str, float]) -> None:
        """Log figures."""
        if self._outbox:
            self._outbox.metrics(values, step=0)

    def tags(self, values: dict[str, str]) -> None:
        """Set tags."""
        if self._outbox:
            self._outbox.tags(values)

    def file(self, path: Path) -> None:
        """Upload a file to the top of the run's files."""
        if self._outbox:
            self._outbox.file(path)
