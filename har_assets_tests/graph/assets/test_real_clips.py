"""The whole pipeline on nine real clips of HMDB51."""

from pathlib import Path

from har_assets_tests.project import Project, log_of


def test_the_pipeline_on_real_clips(tmp_path: Path, shared_data: Path) -> None:
    project = Project.make(tmp_path)
    source = {
        "source": str(shared_data / "hmdb51_mini.rar"),
        "split_lists": str(shared_data / "test_train_splits.rar"),
    }
    done = project.materialize(
        "+key:trt_engine or +key:evaluation_report",
        {"raw_archive": source, "trained_checkpoint": {"epochs": 2, "batch_size": 4}},
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
    report = project.latest("evaluation_report")
    figures = report.record.metadata
    assert (figures["videos"], figures["films"]) == (2, 2)
    assert figures["top1_high"] - figures["top1_low"] > 0.6
    page = report.file("evaluation_report.html").read_text()
    assert len(page) < 5_000_000
    assert "come from 2 source films only" in page
    assert "Synthetic data" not in page
    assert "CC BY 4.0" in report.file("README.md").read_text()
