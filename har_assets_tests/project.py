"""A project folder of its own for tests of the graph, and real `dagster` commands in it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from har_assets.artifacts import Artifact, ArtifactFolder

if TYPE_CHECKING:
    import dagster as dg

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Project:
    """A folder with dagster.yaml and workspace.yaml, nothing else at first."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Project":
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("dagster.yaml", "workspace.yaml"):
            (folder / name).write_text((REPOSITORY / name).read_text())
        return cls(folder)

    @property
    def store(self) -> ArtifactFolder:
        return ArtifactFolder(self.folder / "artifacts")

    def latest(self, asset: str) -> Artifact:
        return self.store.latest(asset)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DAGSTER", "HAR_"))}
        return {**kept, "PYTHONPATH": str(REPOSITORY)}

    def run(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Run `python -m ...` in the project folder."""
        return subprocess.run(
            self.command(*arguments), cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip

    def materialize(
        self, select: str, config: dict[str, dict[str, Any]] | None = None, *, timeout: float = 400
    ) -> subprocess.CompletedProcess[str]:
        """`dagster asset materialize -m har_assets --select SELECT`, `config` by asset."""
        return self.run(*self.materialize_arguments(select, config), timeout=timeout)

    def materialize_arguments(self, select: str, config: dict[str, dict[str, Any]] | None = None) -> list[str]:
        arguments = ["dagster", "asset", "materialize", "-m", "har_assets", "--select", select]
        if config:
            path = self.folder / "config.yaml"
            path.write_text(yaml.safe_dump({"ops": {name: {"config": fields} for name, fields in config.items()}}))
            arguments += ["-c", str(path)]
        return arguments


def materialize_here(project: Project, select: str, config: dict[str, dict[str, Any]]) -> list[str]:
    """Materialize in this process, in the project folder; return the descriptions of the failures."""
    result = execute_here(project, select, config)
    failures = [event.step_failure_data.user_failure_data for event in result.get_step_failure_events()]
    return [failure.description or "" if failure else "a failure that is not in words" for failure in failures]


def execute_here(project: Project, select: str, config: dict[str, dict[str, Any]]) -> "dg.ExecuteInProcessResult":
    """Materialize in this process, in the project folder, without MLflow."""
    import dagster as dg

    from har_assets.definitions import ASSETS
    from har_assets.resources.dvc import Dvc
    from har_assets.resources.mlflow import MlflowTracking
    from har_assets.resources.store import ArtifactStore

    return dg.materialize(
        ASSETS,
        selection=dg.AssetSelection.from_string(select),
        run_config={"ops": {name: {"config": fields} for name, fields in config.items()}},
        resources={
            "store": ArtifactStore(project=str(project.folder)),
            "dvc": Dvc(),
            "mlflow": MlflowTracking(tracking_uri=""),
            "pipes": dg.PipesSubprocessClient(),
        },
        raise_on_error=False,
    )


def log_of(done: subprocess.CompletedProcess[str]) -> str:
    """All that a command printed."""
    return done.stdout + done.stderr
