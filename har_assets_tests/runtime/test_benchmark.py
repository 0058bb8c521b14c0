import csv
import io
from pathlib import Path

import numpy as np
import pytest

from har_assets.errors import HarError
from har_assets.report.plots import plot_runtimes
from har_assets.runtime import available_runtimes
from har_assets.runtime.benchmark import Row, describe_machine, run_benchmark
from har_assets.runtime.benchmark_options import BenchmarkOptions
from har_assets.system.gpu import gpu_compute_capability
from har_assets_tests.videos import write_video


def test_every_runtime_is_measured_or_has_its_reason(tiny_onnx: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clips_BCTHW = rng.integers(0, 256, (3, 3, 4, 16, 16), np.uint8)
    video = write_video(tmp_path / "a.avi", rng.integers(0, 256, (9, 20, 24, 3), dtype=np.uint8))
    options = BenchmarkOptions(batch_sizes=[1, 4], rounds=3, windows=2)
    found = run_benchmark(
        [tiny_checkpoint, tiny_onnx],
        clips_BCTHW,
        videos=[video, tmp_path / "none.avi"],
        options=options,
        runtimes=["pytorch", "onnxruntime_cpu", "onnxruntime_cuda"],
    )
    for row in found.rows:
        if row.reason:
            continue
        assert row.batch in (1, 4)
        assert row.p50_ms is not None
        assert row.p95_ms is not None
        assert row.p99_ms is not None
        assert 0 < row.p50_ms <= row.p95_ms <= row.p99_ms
        assert row.clips_per_s == pytest.approx(row.batch / row.p50_ms * 1e3)
        assert row.start_up_s is not None
        assert row.memory_mb is not None
        assert 0.1 < row.start_up_s < 300
        assert 20 < row.memory_mb < 20_000
        assert row.videos_per_s
        assert row.max_difference is not None
        assert row.max_difference < 1e-4
        assert row.top1_agreement == 1.0
    measured = {(row.runtime, row.batch) for row in found.rows if row.batch}
    assert measured >= {(name, batch) for name in ("pytorch", "onnxruntime_cpu") for batch in (1, 4)}
    if gpu_compute_capability() is None:
        (cuda,) = [row for row in found.rows if row.runtime == "onnxruntime_cuda"]
        assert "no CUDA GPU" in cuda.reason
    best = found.fastest()
    assert best is not None
    assert best.clips_per_s == max(row.clips_per_s or 0 for row in found.rows)

    text = io.StringIO()
    found.write_csv(text)
    rows = list(csv.DictReader(io.StringIO(text.getvalue())))
    assert len(rows) == len(found.rows)
    assert rows[0]["cpu"] == describe_machine()["cpu"]
    chart = plot_runtimes([vars(row) for row in found.rows], tmp_path / "chart.png", title="tiny")
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_a_runtime_that_dies_is_a_row_with_a_reason(
    tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Python runs this at its start in the process of each runtime, and nowhere else.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, os, signal\n"
        "if 'onnxruntime_cpu' in sys.argv or 'onnxruntime_cpu' in getattr(sys, 'orig_argv', []):\n"
        "    os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    found = run_benchmark([tiny_onnx], np.zeros((1, 3, 4, 16, 16), np.uint8), runtimes=["onnxruntime_cpu"])
    assert found.rows == [Row("onnxruntime_cpu", "tiny.onnx", reason="its process ended with status -11")]
    assert found.fastest() is None
    assert plot_runtimes([vars(row) for row in found.rows], tmp_path / "chart.png", title="none").is_file()


def test_a_damaged_model_is_a_row_with_a_reason(tiny_onnx: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(tiny_onnx.read_bytes()[:-300])
    found = run_benchmark([damaged], np.zeros((1, 3, 4, 16, 16), np.uint8), runtimes=["onnxruntime_cpu"])
    assert "export it again" in found.rows[0].reason
    assert available_runtimes(damaged)[0].available


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(HarError, match="needs a model file and a clip"):
        run_benchmark([], np.zeros((1, 3, 4, 16, 16), np.uint8))
    with pytest.raises(HarError, match="of 1 or more"):
        BenchmarkOptions(batch_sizes=[0]).check()


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert int(machine["cores"]) >= 1
    assert {"cpu", "gpu", "vector_units", "python", "torch", "numpy"} <= machine.keys()
