"""evaluation_report: on the sample's pipeline, and on products made up for what a pipeline does not show."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from har_assets.dataset.manifests import write_manifest
from har_assets.model.lightning import VideoActionModel
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.report.predictions import score_here
from har_assets.runtime import open_model
from har_assets.runtime.evaluation import prediction_table
from har_assets.store.record import Record, describe_files
from har_assets_tests.project import Project, execute_here, materialize_here
from har_assets_tests.report.made import png


def embedded(text: str) -> list[bytes]:
    """PNG files inside a page or a piece of Markdown."""
    return [base64.b64decode(found) for found in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)]


def test_the_report_of_the_sample_is_one_small_page_with_its_figures(sample_road: Project) -> None:
    report = sample_road.latest("evaluation_report")
    figures = report.record.metadata
    assert figures["top1"] == sample_road.latest("test_predictions").record.metadata["top1"]
    assert figures["top1_low"] < figures["top1"] <= figures["top1_high"]
    assert (figures["videos"], figures["films"]) == (80, 4)
    page = report.file("evaluation_report.html").read_text()
    assert figures["page_bytes"] < 5_000_000
    assert "Synthetic data" in page
    version = sample_road.latest("video_clips").record.data_version
    for text in (version, "/assets/onnx_model", report.record.lineage["mlflow_run_id"]):
        assert text in page


def test_a_model_card_lies_beside_each_model(sample_road: Project) -> None:
    for asset in ("trained_checkpoint", "onnx_model", "evaluation_report"):
        card = sample_road.latest(asset).file("README.md").read_text()
        assert card.startswith("---\nlicense: apache-2.0\n")
        assert sample_road.latest("video_clips").record.data_version in card
        assert ("model-index:" in card) == (asset == "evaluation_report")


def test_page_web_ui_and_mlflow_have_the_same_pictures(sample_road: Project, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    report = sample_road.latest("evaluation_report")
    run_id = report.record.lineage["mlflow_run_id"]
    client = MlflowClient(f"sqlite:///{sample_road.folder}/mlflow.db")
    names = {file.path for file in client.list_artifacts(run_id)}
    assert "confusion.png" not in names
    shown: dict[str, bytes] = {}
    for asset in ("trained_checkpoint", "test_predictions", "evaluation_report"):
        (event,) = execute_here(sample_road, f"key:{asset}", {}).asset_materializations_for_node(asset)
        assert event.metadata["unchanged"].value is True
        artifact = sample_road.latest(asset)
        for name in artifact.record.metadata["pictures"]:
            (picture,) = embedded(str(event.metadata[Path(name).stem].value))
            assert picture == artifact.file(name).read_bytes(), name
            assert Path(client.download_artifacts(run_id, name, str(tmp_path))).read_bytes() == picture, name
            shown[name] = picture
    assert {"curves.png", "validation_confusion.png", "test_confusion.png", "reliability.png"} <= shown.keys()
    assert embedded(report.file("evaluation_report.html").read_text()) == [
        shown["reliability.png"],
        shown["curves.png"],
    ]
    page = client.download_artifacts(run_id, "evaluation_report.html", str(tmp_path))
    assert Path(page).read_bytes() == report.file("evaluation_report.html").read_bytes()
    metrics = client.get_run(run_id).data.metrics
    assert metrics["test_video_top1_low"] == pytest.approx(report.record.metadata["top1_low"])


LABELS = ("<b>", "a & b", "NA")


@pytest.fixture
def made_up(tmp_path: Path, tiny_cache: Path, tiny_spec: ModelSpec) -> Project:
    """A project whose products were published by hand: an untrained network, classes with awkward names, no videos."""
    import pytorch_lightning as pl
    import torch

    project = Project.make(tmp_path / "project")
    spec = ModelSpec(**{**json.loads(tiny_spec.to_json(), object_hook=_without_format), "labels": LABELS})
    lineage = {"dataset": "mine", "synthetic": False, "data_version": "v1", "split": 1, "mlflow_run_id": ""}
    model = VideoActionModel.from_spec(spec, Provenance(dataset="mine", data_version="v1", split=1))
    old = pd.read_csv(tiny_cache / "train.csv")
    renamed = dict(zip(("jump", "sit", "stand"), LABELS, strict=True))
    manifest = old.assign(label=[renamed[label] for label in old["label"]]).head(9)
    lost = manifest.iloc[0]["clip"]

    def publish(asset: str, inputs: dict[str, str], metadata: dict[str, Any], write: Any, **config: Any) -> None:
        with project.store.staging(asset) as folder:
            write(folder)
            record = Record(
                asset=asset,
                key=asset,
                data_version=f"{asset} 1",
                files=describe_files(folder),
                headline="made",
                lineage=lineage,
                metadata=metadata,
                checks={},
                inputs=inputs,
                config=config,
                seconds=0.0,
            )
            project.store.publish(folder, record)

    def versions(*assets: str) -> dict[str, str]:
        return {asset: f"{asset} 1" for asset in assets}

    def write_cache(folder: Path) -> None:
        for file in (tiny_cache / "cache").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        lines = (folder / "index.csv").read_text().splitlines(keepends=True)
        (folder / "index.csv").write_text("".join(line for line in lines if not line.startswith(lost)))

    def write_checkpoint(folder: Path) -> None:
        content = {
            "state_dict": model.state_dict(),
            "hyper_parameters": dict(model.hparams),
            "pytorch-lightning_version": pl.__version__,
            "epoch": 0,
            "global_step": 0,
        }
        torch.save(content, folder / "video_action_model.ckpt")
        (folder / "curves.png").write_bytes(png())

    def write_predictions(folder: Path) -> None:
        predictor = open_model(project.latest("trained_checkpoint").file("video_action_model.ckpt"), "pytorch")
        scores, runtime = score_here(list(manifest["clip"]), predictor, project.latest("frame_cache"), 2)
        table, scores_NK = prediction_table(scores, manifest, LABELS, runtime)
        table.to_csv(folder / "test_predictions.csv", index=False)
        np.save(folder / "scores.npy", scores_NK)

    publish("frame_cache", {}, {"quarantine": [{"clip": lost, "reason": "no <i>frame</i>"}]}, write_cache)
    publish("test_manifest", {}, {}, lambda folder: write_manifest(manifest, folder / "test.csv"))
    summary = {
        "validated": False,
        "train_clips": 1,
        "val_clips": 0,
        "epochs_run": 1,
        "best_epoch": 0,
        "device": "CPU",
        "precision": "32-true",
        "seconds": 0.0,
    }
    publish(
        "trained_checkpoint",
        {},
        summary,
        write_checkpoint,
        optimizer="adam",
        learning_rate=0.1,
        schedule="constant",
        batch_size=1,
        seed=0,
    )
    publish("onnx_model", versions("trained_checkpoint"), {}, lambda folder: None)
    parents = versions("onnx_model", "test_manifest", "frame_cache")
    publish("test_predictions", parents, {"windows": 2, "runtime": "made"}, write_predictions)
    return project


def _without_format(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "format"}


def test_names_are_escaped_and_undecodable_videos_count_as_wrong(made_up: Project) -> None:
    assert materialize_here(made_up, "key:evaluation_report", {}) == []
    report = made_up.latest("evaluation_report")
    figures = report.record.metadata
    table = pd.read_csv(made_up.latest("test_predictions").file("test_predictions.csv"), keep_default_na=False)
    right = int((table["label"] == table["label_1"]).sum())
    assert (figures["videos"], figures["quarantined"], figures["wrong"]) == (9, 1, 9 - right)
    assert figures["top1"] == pytest.approx(right / 9)
    page = report.file("evaluation_report.html").read_text()
    assert "<b>" not in page
    assert "<i>" not in page
    assert "&lt;b&gt;" in page
    assert "no &lt;i&gt;frame&lt;/i&gt;" in page
    assert "The video is gone" in page  # there is no data/: frames of the cache are shown
    assert page.count("<article") == min(8 - right, 12) + len(set(table["label"][table["label"] == table["label_1"]]))
    assert "Data: your own" in report.file("README.md").read_text()


def test_pictures_can_be_left_out(made_up: Project) -> None:
    config = {"evaluation_report": {"mistakes": 0, "right": 1, "saliency": False}}
    assert materialize_here(made_up, "key:evaluation_report", config) == []
    report = made_up.latest("evaluation_report")
    assert report.record.metadata["pictures"] == ["reliability.png", "class_accuracy.png"]
    page = report.file("evaluation_report.html").read_text()
    assert "Left out by configuration" in page
    assert "spoke for" not in page.split('id="scores"')[0].split('id="right"')[1]


def test_predictions_of_another_model_are_refused(made_up: Project) -> None:
    onnx = made_up.latest("onnx_model")
    record = json.loads((onnx.folder / "artifact.json").read_text())
    (onnx.folder / "artifact.json").write_text(json.dumps(record | {"data_version": "onnx_model 2"}))
    (refusal,) = materialize_here(made_up, "key:evaluation_report", {})
    assert "The latest test_predictions was made from another onnx_model than the latest" in refusal
    assert "key:test_predictions or key:evaluation_report" in refusal


def test_the_command_explain_writes_a_moving_picture(sample_road: Project) -> None:
    from PIL import Image

    clip = next((sample_road.folder / "data" / "videos" / "jump").iterdir())
    done = sample_road.run("har_assets.cli", "explain", str(clip), "--out", "jump.webp")
    assert done.returncode == 0, done.stderr
    assert "jump.webp shows what speaks for jump" in done.stdout
    with Image.open(sample_road.folder / "jump.webp") as picture:
        assert picture.n_frames == 16
        assert picture.width > 2 * picture.height  # frames and heat side by side
    refused = sample_road.run("har_assets.cli", "explain", str(clip), "--out", "jump.gif")
    assert refused.returncode == 1
    assert "is no .webp file" in refused.stderr
