"""What `import har_assets` brings in, asked of fresh interpreters."""

import json
import os
import statistics
import subprocess
import sys

import pytest

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
