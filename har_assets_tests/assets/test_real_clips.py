"""The whole road on nine real clips of HMDB51."""

from pathlib import Path

from har_assets_tests.project import Project, log_of


def test_the_road_on_real_clips(tmp_path: Path, shared_data: Path) -> None:
    project = Project.make(tmp_path)
    source = {
        "source": str(shared_data / "hmdb51_mini.rar"),
        "split_lists": str(shared_data / "test_train_splits.rar"),
    }
    done = project.materialize(
        "+key:trt_engine", {"raw_archive": source, "trained_checkpoint": {"epochs": 2, "batch_size": 4}}
    )
    assert done.returncode == 0, log_of(done)[-4000:]
    assert project.latest("video_clips").record.metadata["clips"] == 9
    counts = {role: project.latest(f"{role}_manifest").record.metadata for role in ("train", "val", "test")}
    assert counts["train"]["clips"] + counts["val"]["clips"] == 6
    assert counts["test"]["clips"] == 2
    assert counts["test"]["unused"] == 1
    assert counts["test"]["absent"] == 6766 - 9
    assert project.latest("class_index").record.headline == "51 classes"
    assert "last epoch is kept instead of the best" in log_of(done)
    assert project.latest("trained_checkpoint").record.metadata["validated"] is False
