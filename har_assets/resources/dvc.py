"""DVC: the version of `data/`, in `data.dvc`. Works inside and outside git."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from har_assets.errors import HarError

DVC_FILE = "data.dvc"


class Dvc(dg.ConfigurableResource):
    """The project's DVC repository. Commands run in a process of their own: dvc is slow to import."""

    remote: str = ""
    """Name of the remote for push and pull; empty takes DVC's default remote."""

    def tracked_version(self, project: Path) -> str | None:
        """The md5 of `data/` in `data.dvc`, `<32 digits>.dir`, or None where nothing is tracked."""
        outs = self._content(project).get("outs") or [{}]
        version = outs[0].get("md5")
        return str(version) if version else None

    def tracked_dataset(self, project: Path) -> str | None:
        """Name of the data set that `data.dvc` tracks, or None where it does not say."""
        name = (self._content(project).get("meta") or {}).get("dataset")
        return str(name) if name else None

    def add(self, project: Path, dataset: str, log: Callable[[str], None]) -> str:
        """Track `data/` and return its md5. The files move into DVC's cache and are linked back."""
        if not (project / ".dvc").is_dir():
            self._run(project, ["init", "--no-scm", "--quiet"], log)
        self._run(project, ["add", "--quiet", "data"], log)
        version = self.tracked_version(project)
        if version is None:
            raise HarError(f"`dvc add data` wrote no md5 into {project / DVC_FILE}: run it by hand to see why.")
        content = self._content(project)
        if (content.get("meta") or {}).get("dataset") != dataset:
            content["meta"] = {"dataset": dataset}
            partial = project / f"{DVC_FILE}.partial"
            partial.write_text(yaml.safe_dump(content, sort_keys=False))
            partial.replace(project / DVC_FILE)
        return version

    def pull(self, project: Path, log: Callable[[str], None]) -> None:
        """Restore `data/` as `data.dvc` says, from the cache or the remote."""
        self._run(project, ["pull", "--force", *self._remote_option(), DVC_FILE], log)

    def push(self, project: Path, log: Callable[[str], None]) -> None:
        """Copy the tracked data to the remote."""
        self._run(project, ["push", *self._remote_option(), DVC_FILE], log)

    def _remote_option(self) -> list[str]:
        return ["--remote", self.remote] if self.remote else []

    def _content(self, project: Path) -> dict[str, Any]:
        path = project / DVC_FILE
        if not path.is_file():
            return {}
        try:
            content = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise HarError(f"{path} is not readable YAML: restore it (`git checkout {DVC_FILE}`).") from error
        return content if isinstance(content, dict) else {}

    def _run(self, project: Path, arguments: list[str], log: Callable[[str], None]) -> None:
        log(f"dvc {' '.join(arguments)}")
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=project,
            env={**os.environ, "DVC_NO_ANALYTICS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()
            said = next((line for line in reason if line.startswith("ERROR")), reason[-1] if reason else "no message")
            raise HarError(
                f"`dvc {' '.join(arguments)}` failed ({said.removeprefix('ERROR: ')}): run it in {project} to see "
                "more, or set dvc: off on video_clips."
            )
