"""A project folder of its own for tests of the graph, and real `dagster` commands in it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from har_assets.store.folder import ArtifactFolder
from har_assets.store.record import Artifact
from har_assets_tests.videos import write_video

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
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

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


def materialize_here(
    project: Project, select: str, config: dict[str, dict[str, Any]], *, tracked: bool = False
) -> list[str]:
    """Materialize in this process, in the project folder; return the descriptions of the failures."""
    result = execute_here(project, select, config, tracked=tracked)
    failures = [event.step_failure_data.user_failure_data for event in result.get_step_failure_events()]
    return [failure.description or "" if failure else "a failure that is not in words" for failure in failures]


def execute_here(
    project: Project, select: str, config: dict[str, dict[str, Any]], *, tracked: bool = False
) -> "dg.ExecuteInProcessResult":
    """Materialize in this process, in the project folder, without MLflow unless `tracked`."""
    import dagster as dg

    from har_assets.definitions import ASSETS, RESOURCES
    from har_assets.graph.resources.mlflow import MlflowTracking
    from har_assets.graph.resources.store import ArtifactStore

    return dg.materialize(
        ASSETS,
        selection=dg.AssetSelection.from_string(select),
        run_config={"ops": {name: {"config": fields} for name, fields in config.items()}},
        resources={
            **RESOURCES,
            "store": ArtifactStore(project=str(project.folder)),
            "mlflow": MlflowTracking() if tracked else MlflowTracking(tracking_uri=""),
        },
        raise_on_error=False,
    )


def log_of(done: subprocess.CompletedProcess[str]) -> str:
    """All that a command printed."""
    return done.stdout + done.stderr


def make_own_videos(folder: Path, clips_per_class: int = 6) -> Path:
    """Three classes of someone's own: a bar that stands still, moves right, moves down."""
    rng = np.random.default_rng(0)
    for label in ("down", "right", "still"):
        for number in range(clips_per_class):
            frames_THWC = rng.integers(0, 80, (24, 48, 64, 3), dtype=np.uint8)
            for time_step in range(24):
                place = 4 + number + time_step
                if label == "down":
                    frames_THWC[time_step, place : place + 6] = 220
                else:
                    left = place if label == "right" else 10 + number
                    frames_THWC[time_step, :, left : left + 6] = 220
            write_video(folder / label / f"{label} #{number};[a].avi", frames_THWC)
    return folder


def make_split_lists(folder: Path, videos: Path) -> Path:
    """Lists in HMDB51's format: of each class two clips test, the rest train, in all three splits."""
    folder.mkdir()
    for label in sorted(path for path in videos.iterdir()):
        names = sorted(path.name for path in label.iterdir())
        text = "".join(f"{name} {2 if number < 2 else 1} \n" for number, name in enumerate(names))
        for split in (1, 2, 3):
            (folder / f"{label.name}_test_split{split}.txt").write_text(text)
    return folder


def trainings_in(folder: Path) -> list[int]:
    """Training processes, torchrun and those that find nodes included, whose request lies below a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        is_training = "har_assets.training" in command or "har_assets.cluster" in command
        if is_training and str(folder) in command:
            found.append(int(process.name))
    return found
