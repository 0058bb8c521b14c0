"""`har predict` and `har bench` as commands."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from har_assets.cli.output import files_of
from har_assets.export.engine_options import EngineOptions
from har_assets.export.tensorrt import build_engine
from har_assets.incoming.results import Results, update_table
from har_assets.model.files import CHECKPOINT, ONNX
from har_assets.store.folder import ArtifactFolder
from har_assets_tests.project import REPOSITORY
from har_assets_tests.published import publish
from har_assets_tests.videos import write_video


def har(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "har_assets.cli", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
        timeout=200,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three videos, one of them in a folder below, and one file that is none."""
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    for name in ("b [1].avi", "a.avi", "below/c.avi"):
        write_video(folder / "videos" / name, rng.integers(0, 256, (9, 20, 24, 3), dtype=np.uint8))
    (folder / "videos" / "bad.avi").write_bytes(b"no video")
    return folder


def test_predictions_of_a_folder_come_in_order_and_a_bad_file_shows(folder: Path, tiny_onnx: Path) -> None:
    done = har("predict", "--json", "--model", tiny_onnx, "videos/below", "videos", folder=folder)
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["video"] for line in lines] == [
        "videos/below/c.avi",
        "videos/a.avi",
        "videos/b [1].avi",
        "videos/bad.avi",
        "videos/below/c.avi",
    ]
    reason = lines[3].pop("error")
    assert lines[3] == {"video": "videos/bad.avi", "top": []}
    assert done.stderr == f"videos/bad.avi: {reason}\n"
    assert sum(score["score"] for score in lines[0]["top"]) == pytest.approx(1, abs=1e-4)
    done = har("predict", "--csv", "--top", 1, "--model", tiny_onnx, "videos/bad.avi", "videos/a.avi", folder=folder)
    assert done.returncode == 1
    bad, good = csv.DictReader(io.StringIO(done.stdout))
    assert bad == {"video": "videos/bad.avi", "rank": "", "label": "", "score": "", "error": reason}
    assert (good["video"], good["rank"], good["error"]) == ("videos/a.avi", "1", "")


def test_what_folders_and_patterns_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("run/a.avi", "run/b.MTS", "run/c.txt", "run/._a.avi", "@eaDir/d.avi", "deep/er/e.avi", "f.avi"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "lost.avi").symlink_to("nothing")
    for link in ("up", "again"):  # a pattern must not follow two links that lead back up for ever
        (tmp_path / "run" / link).symlink_to(tmp_path)

    def found(argument: str) -> list[str]:
        return [path.relative_to(tmp_path).as_posix() for path in files_of(f"{tmp_path}/{argument}")]

    assert found("") == ["deep/er/e.avi", "f.avi", "lost.avi", "run/a.avi", "run/b.MTS"]
    assert capsys.readouterr().err == (
        "note: 1 files that are no videos were left out: 1 .txt.\n"
        "note: 2 files or folders that systems keep beside videos were left out: 1 ._*, 1 @eaDir.\n"
    )
    assert found("**/*.avi") == ["deep/er/e.avi", "f.avi", "lost.avi", "run/a.avi"]
    assert found("**/er/*") == ["deep/er/e.avi"]
    assert found("*/*.avi") == ["run/a.avi"]
    assert found("*.avi") == ["f.avi", "lost.avi"]
    assert found("d*") == ["deep/er/e.avi"]
    assert found("[rs]un/*.txt") == ["run/c.txt"]  # whoever names it has it tried
    assert found("nowhere/**/*.avi") == []


def test_patterns_and_names_that_look_like_patterns(folder: Path, tiny_checkpoint: Path) -> None:
    done = har(
        "predict",
        "--csv",
        "--top",
        1,
        "--runtime",
        "pytorch",
        "--model",
        tiny_checkpoint,
        "videos/**/[ac].avi",
        "videos/b [1].avi",
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["video"] for row in rows] == ["videos/a.avi", "videos/below/c.avi", "videos/b [1].avi"]
    assert {row["rank"] for row in rows} == {"1"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing/*.avi"], "No videos in nothing/*.avi"),
        (["--json", "--csv", "videos/a.avi"], "exclude each other"),
        (["--runtime", "abacus", "videos/a.avi"], "There is no runtime 'abacus'"),
        (["--runtime", "pytorch", "videos/a.avi"], "The runtime pytorch runs .ckpt files"),
        (["--model", "none.onnx", "videos/a.avi"], "There is no ONNX file none.onnx"),
    ],
)
def test_what_cannot_be_done_is_one_line(folder: Path, tiny_onnx: Path, arguments: list[str], words: str) -> None:
    model = [] if "--model" in arguments else ["--model", tiny_onnx]
    done = har("predict", *model, *arguments, folder=folder)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_in_a_terminal_there_is_a_bar_and_stdout_still_holds_results_only(folder: Path, tiny_onnx: Path) -> None:
    ours, theirs = pty.openpty()
    arguments = ["predict", "--json", "--runtime", "onnxruntime_cpu", "--model", str(tiny_onnx), "videos/a.avi"]
    process = subprocess.Popen(
        [sys.executable, "-m", "har_assets.cli", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:
        pass  # how Linux says that the other side is closed
    os.close(ours)
    assert process.stdout is not None
    with process.stdout as out:
        (line,) = out.read().splitlines()
    assert process.wait() == 0
    assert json.loads(line)["video"] == "videos/a.avi"
    assert b"predicting" in shown
    assert b"ONNX Runtime" in shown


def test_bench_names_what_it_measured(folder: Path, tiny_onnx: Path) -> None:
    done = har(
        "bench",
        "--json",
        "--model",
        tiny_onnx,
        "--runtime",
        "onnxruntime_cpu",
        "--batch",
        "1,2",
        "--rounds",
        3,
        "--video",
        "videos",
        "--chart",
        "chart.png",
        folder=folder,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["runtime"], row["batch"]) for row in rows] == [("onnxruntime_cpu", 1), ("onnxruntime_cpu", 2)]
    assert rows[0]["videos_per_s"] > 0
    assert done.stderr.startswith("videos/bad.avi is left out: ")
    assert (folder / "chart.png").is_file()
    done = har("bench", "--model", tiny_onnx, "--batch", "one", folder=folder)
    assert (done.returncode, done.stderr) == (
        1,
        "error: 'one' are no batch sizes: write numbers with commas between them, 1,8,32.\n",
    )


def test_without_a_model_the_latest_that_the_runtime_runs_is_taken(
    folder: Path, tiny_onnx: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    store = ArtifactFolder(tmp_path / "store")
    publish(store, "trained_checkpoint", {CHECKPOINT: tiny_checkpoint})
    arguments = ("predict", "--json", "--store", store.root, "videos/a.avi")
    done = har(*arguments, "--runtime", "pytorch", folder=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runtime"].startswith("PyTorch ")
    for options in ((), ("--runtime", "onnxruntime_cpu")):
        done = har(*arguments, *options, folder=folder)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: onnx_model has not been materialized: run ")
    publish(store, "onnx_model", {ONNX: tiny_onnx})
    done = har(*arguments, "--runtime", "onnxruntime", folder=folder)
    assert done.returncode == 0, done.stderr
    done = har(*arguments, "--runtime", "tensorrt", folder=folder)
    assert done.stderr.startswith("error: trt_engine has not been materialized: run ")
    done = har(*arguments, "--runtime", "abacus", folder=folder)
    assert done.stderr.startswith("error: There is no runtime 'abacus': choose auto, onnxruntime, ")


def test_a_model_without_a_card_gets_one(folder: Path, tiny_onnx: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    engine = tmp_path / "tiny.engine"
    build_engine(tiny_onnx, engine, EngineOptions(builder="tensorrt_rtx", targets=("8.9",)))
    for model in (tiny_onnx, tiny_checkpoint, engine):
        done = har("card", model, folder=folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("---\nlicense:")
        assert f"`{model.name}` says which of 3 actions" in done.stdout
        assert "| Data version | v1 |" in done.stdout
    refused = har("card", folder / "videos" / "a.avi", folder=folder)
    assert refused.returncode == 1
    assert "is no model file: name one that ends in .onnx or .ckpt or .engine." in refused.stderr
    refused = har("card", "none.engine", folder=folder)
    assert refused.stderr == "error: There is no engine none.engine: materialize trt_engine or name another file.\n"


def test_status_leaves_no_asset_out_and_tells_of_new_videos(tmp_path: Path) -> None:
    import dagster as dg

    from har_assets.definitions import ASSETS

    empty = har("status", folder=tmp_path)
    assert empty.returncode == 0, empty.stderr
    made = {key.to_user_string() for asset in ASSETS if isinstance(asset, dg.AssetsDefinition) for key in asset.keys}
    listed = {line.split()[0] for line in empty.stdout.splitlines() if "not materialized" in line}
    assert listed >= made

    home = tmp_path / "artifacts" / "incoming_video_predictions"
    results = Results(home, {})
    for number, label in enumerate(("wave", "run")):
        results.write(
            {
                "video": f"clip [{label}].avi",
                "partition": label,
                "content_sha256": f"{number:064d}",
                "reason": "",
                "note": "",
                "timeline": None,
                "frames": 3,
                "runtime": "a test",
                "predicted": f"2026-01-0{number + 1}T00:00:00.000+00:00",
                "model": {"version": "m1", "sha256": "s1"},
                "top": [{"label": label, "score": 0.75}],
            }
        )
    update_table(home, print)
    shown = " ".join(har("status", folder=tmp_path).stdout.split())
    assert "2 videos; newest, 2026-01-02 00:00: clip [run].avi: run 0.75" in shown
