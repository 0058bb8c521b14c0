"""Fixtures shared by all tests: the folder of real clips and archives, and a project folder of its own."""

import os
import signal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from har_assets.dataset.manifests import write_manifest
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.video.frame_cache import CacheParams, build_frame_cache
from har_assets_tests.videos import write_video

if TYPE_CHECKING:
    from har_assets_tests.project import Project

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    """Let Ctrl-C reach what the tests start, also where a script runs them in the background.

    Such a job ignores SIGINT from its start, and Dagster then gives SIGTERM the same treatment.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@cache
def uses_sample_road(file: str) -> bool:
    return "sample_road" in (REPOSITORY / file).read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`: a file's tests stay in one process, and so do all files that use the sample pipeline.

    (`--dist loadgroup` is made for that, and pytest-xdist 3.8 ignores it under pytest 9.2.)
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFileOrPipeline(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "sample_road" if uses_sample_road(file) else file

    return ByFileOrPipeline(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest starts first."""
    items.sort(key=lambda item: not uses_sample_road(item.location[0]))


@pytest.fixture(scope="session")
def sample_road(tmp_path_factory: pytest.TempPathFactory) -> "Project":
    """The pipeline on the built-in sample, from an empty store, by the command of `make demo`.

    A project folder with every asset. It is made once, which takes a minute or two, and all tests share it:
    what a test adds or replaces must not matter to the others.
    """
    from har_assets_tests.project import Project, log_of

    project = Project.make(tmp_path_factory.mktemp("sample"))
    done = project.materialize("+key:runtime_benchmark or +key:evaluation_report", timeout=580)
    assert done.returncode == 0, log_of(done)[-4000:]
    return project


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real HMDB51 clips, official lists and awkward files; not part of the repository."""
    folder = Path(os.environ.get("HAR_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "hmdb51_mini.rar").is_file():
        pytest.skip(f"no real clips at {folder}: set HAR_SHARED_DATA to a folder with hmdb51_mini.rar")
    return folder


TINY_LABELS = ("jump", "sit", "stand")


@pytest.fixture(scope="session")
def tiny_spec() -> ModelSpec:
    """A spec small enough that a network runs in milliseconds."""
    return ModelSpec(
        labels=TINY_LABELS,
        num_frames=4,
        frame_stride=1,
        decode_height=20,
        decode_width=24,
        frame_height=16,
        frame_width=16,
    )


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published frame cache and manifests of 24 made clips: label k is a bar that moves k pixels a frame.

    Folder with `cache/`, `train.csv`, `val.csv`, `test.csv`.
    """
    folder = tmp_path_factory.mktemp("tiny")
    videos = folder / "videos"
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        label = number % len(TINY_LABELS)
        frames_THWC = rng.integers(0, 60, (8, 20, 24, 3), dtype=np.uint8)
        for time in range(8):
            column = (number + time * label * 2) % 20
            frames_THWC[time, :, column : column + 4] = 230
        clip = f"{TINY_LABELS[label]}/clip{number:02d}.avi"
        write_video(videos / clip, frames_THWC)
        role = ("train", "train", "train", "val", "test")[number // 3 % 5] if number < 15 else "train"
        rows.append(
            {
                "clip": clip,
                "label": TINY_LABELS[label],
                "label_index": label,
                "film": f"film{number // 3}",
                "split": 1,
                "role": role,
                "bytes": (videos / clip).stat().st_size,
            }
        )
    table = pd.DataFrame(rows)
    for role in ("train", "val", "test"):
        write_manifest(table[table["role"] == role], folder / f"{role}.csv")
    build_frame_cache(
        {row["clip"]: videos / row["clip"] for row in rows},
        params=CacheParams(20, 24, 1, 64),
        folder=folder / "cache",
        work=folder / "work",
        workers=1,
        log=lambda line: None,
    )
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_spec: ModelSpec) -> Path:
    """A checkpoint file of an untrained network for `tiny_spec`."""
    import pytorch_lightning as pl
    import torch

    from har_assets.model.lightning import VideoActionModel

    torch.manual_seed(0)
    model = VideoActionModel.from_spec(tiny_spec, Provenance(dataset="tiny", data_version="v1", split=1))
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.ckpt"
    torch.save(
        {
            "state_dict": model.state_dict(),
            "hyper_parameters": dict(model.hparams),
            "pytorch-lightning_version": pl.__version__,
            "epoch": 0,
            "global_step": 0,
        },
        path,
    )
    return path


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """The same network as an ONNX file."""
    from har_assets.export.onnx import export_onnx

    return export_onnx(tiny_checkpoint, tmp_path_factory.mktemp("onnx") / "tiny.onnx")
