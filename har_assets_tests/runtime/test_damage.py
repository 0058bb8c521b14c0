"""No damaged model file gives wrong scores, an error that is not a sentence, or a dead process."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from har_assets.export.engine_options import EngineOptions
from har_assets.export.tensorrt import build_engine
from har_assets.model.files import KINDS, sidecar_path
from har_assets_tests.project import REPOSITORY
from har_assets_tests.runtime.damage import runtimes_of, sound_kinds, targets_of


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_damaged_model_files_are_refused_or_harmless(
    count: int, tiny_checkpoint: Path, tiny_onnx: Path, tmp_path: Path
) -> None:
    shutil.copy(tiny_checkpoint, tmp_path / "sound.ckpt")
    shutil.copy(tiny_onnx, tmp_path / "sound.onnx")
    engine = tmp_path / "sound.engine"
    build_engine(tiny_onnx, engine, EngineOptions(builder="tensorrt_rtx", targets=("8.9",)))
    assert sidecar_path(engine).is_file()
    done = subprocess.run(
        [sys.executable, "-m", "har_assets_tests.runtime.damage", str(tmp_path), str(count), "0"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"died after {reports[-1:]}: {done.stderr[-2000:]}"

    kinds = sound_kinds(tmp_path)
    assert kinds == list(KINDS.values())
    loads = {
        target: runtimes_of(tmp_path / f"sound{kind.suffix}", kind) for kind in kinds for target in targets_of(kind)
    }
    assert {"sound.ckpt", "sound.onnx", "sound.engine", "sound.engine.json"} <= loads.keys()
    for target, runtimes in loads.items():
        of_it = [report["runtime"] for report in reports if report["target"] == target]
        assert of_it == count // len(loads) * runtimes
    wrong = [report for report in reports if report["outcome"] == "DIFFERENT"]
    assert not wrong
    refused = [report["outcome"] for report in reports if report["outcome"].startswith("refused: ")]
    assert all("\n" not in sentence and sentence.endswith(".") for sentence in refused)
    # Nearly all damage matters: a test in which nothing is refused would prove nothing.
    assert len(refused) > 0.7 * len(reports)
    found = Counter((report["target"], report["outcome"].split(":")[0]) for report in reports)
    print(f"{count} damaged files, {len(reports)} loads:", dict(sorted(found.items())))
