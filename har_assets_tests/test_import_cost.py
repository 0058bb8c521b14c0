"""What `import har_assets` brings in, asked of fresh interpreters."""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from har_assets_tests.project import REPOSITORY
from har_assets_tests.videos import write_video

HEAVY = (
    "torch",
    "mlflow",
    "onnx",
    "onnxruntime",
    "tensorrt",
    "tensorrt_rtx",
    "decord",
    "av",
    "pandas",
    "dagster_mlflow",
)


def imported_by(statement: str) -> list[str]:
    code = f"{statement}\nimport json, sys\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded: list[str] = json.loads(done.stdout.splitlines()[-1])
    return loaded


@pytest.mark.parametrize("statement", ["import har_assets", "from har_assets import defs", "import har_assets.cli"])
def test_nothing_heavy_is_imported(statement: str) -> None:
    assert imported_by(statement) == []


@pytest.mark.parametrize(
    "module", ["har_assets.cli", "har_assets.runtime", "har_assets.tracking.run", "har_assets.training.request"]
)
def test_inference_and_training_do_not_import_dagster(module: str) -> None:
    code = f"import {module}, sys; sys.exit('dagster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_graph_costs_little_more_than_the_import_of_dagster() -> None:
    # As an installed package is imported, with its bytecode written before.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def seconds(statement: str) -> float:
        # Of the processor, not of the clock: other tests run beside this one.
        command = [sys.executable, "-c", f"{statement}\nimport time\nprint(time.process_time())"]
        return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)

    # Each pair in the same moments: what runs beside them slows both. Alone on a machine the ratio is about 1.4.
    ratios = [seconds("from har_assets import defs") / seconds("import dagster") for _ in range(3)]
    assert statistics.median(ratios) <= 1.6


OWN_DATA = """
import sys
from pathlib import Path
from har_assets_tests.project import Project, materialize_here
config = {"raw_archive": {"source": sys.argv[1]}}
sys.exit(bool(materialize_here(Project.make(Path("project").absolute()), "key:raw_archive", config)))
"""


def imports_of(*arguments: str, folder: Path) -> set[str]:
    """Modules that `python ARGUMENTS` and the processes that it starts import."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_the_sample_is_drawn_by_nothing_that_is_imported_for_another_purpose(tmp_path: Path, tiny_onnx: Path) -> None:
    write_video(tmp_path / "videos" / "run" / "a.avi", np.zeros((9, 20, 24, 3), np.uint8))
    drawing = "har_assets.dataset.sample"
    for arguments in (
        ("-c", "import har_assets.definitions"),
        ("-m", "har_assets.cli", "--help"),
        ("-m", "har_assets.cli", "predict", "--model", str(tiny_onnx), "videos/run/a.avi"),
        ("-c", OWN_DATA, str(tmp_path / "videos")),
    ):
        imported = imports_of(*arguments, folder=tmp_path)
        assert "har_assets.errors" in imported
        assert [name for name in imported if f"{name}.".startswith(f"{drawing}.")] == [], arguments
    assert drawing in imports_of("-c", f"import {drawing}", folder=tmp_path)
