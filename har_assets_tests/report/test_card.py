"""Model cards: front matter that a hub can read, and text that says what must be known."""

import dataclasses
from typing import Any

import pytest
import yaml

from har_assets.dataset.groups import INFERRED, KNOWN, UNKNOWN
from har_assets.model.recipe import TrainingOptions
from har_assets.model.spec import Provenance
from har_assets.report.card import model_card, training_facts
from har_assets_tests.hub_server import complaints
from har_assets_tests.report import made

REAL = Provenance(dataset="hmdb51", data_version="abc123", split=2, pretrained="Kinetics-400, i3d.ckpt, SHA-256 12")


def front_matter(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


SUMMARY = {
    "train_clips": 130,
    "val_clips": 22,
    "validated": True,
    "epochs_run": 30,
    "best_epoch": 28,
    "val_top1": 1.0,
    "device": "CPU",
    "precision": "32-true",
    "seconds": 79.4,
}


def test_a_card_says_how_a_model_was_trained_only_where_all_of_it_is_recorded() -> None:
    recorded = TrainingOptions(learning_rate=0.01, batch_size=4).recorded()
    facts = dict(training_facts(SUMMARY, recorded))
    assert facts["Recipe"] == "adam, learning rate 0.01, one_cycle, batches of 4, seed 0"
    unknown = [("Training", "not recorded with the checkpoint")]
    for name in ("optimizer", "learning_rate", "schedule", "batch_size", "seed"):
        assert training_facts(SUMMARY, {key: value for key, value in recorded.items() if key != name}) == unknown
    assert training_facts(SUMMARY, {**recorded, "batch_size": "many"}) == unknown
    assert training_facts({}, recorded) == training_facts(SUMMARY, {}) == unknown


def test_a_card_with_figures_is_one_that_a_hub_can_read() -> None:
    evaluation = made.evaluation(("run", "walk", "sit"), undecodable=1)
    card = model_card(
        made.spec(("run", "walk", "sit")), REAL, file="m.onnx", weights_licence="Apache-2.0", evaluation=evaluation
    )
    head = front_matter(card)
    assert head["license"] == "cc-by-4.0"
    assert head["pipeline_tag"] == "video-classification"
    assert head["metrics"] == ["accuracy"]
    (result,) = head["model-index"][0]["results"]
    assert result["dataset"]["name"] == "HMDB51"
    assert result["dataset"]["revision"] == "abc123"
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["accuracy"] == pytest.approx(evaluation.top1.value, abs=1e-4)
    for text in (
        "split 2",
        "abc123",
        "CC BY 4.0",
        "Kuehne",
        "Apache-2.0.",
        "no surveillance",
        "1 could not be decoded",
        f"{evaluation.top1.low:.3f} to {evaluation.top1.high:.3f}",
    ):
        assert text in card, text


@pytest.mark.parametrize("provenance", [REAL, Provenance(dataset='my: "videos"', split=1)])
def test_the_client_of_the_hub_reads_the_front_matter_without_a_loss(provenance: Provenance) -> None:
    from huggingface_hub import ModelCard

    evaluation = made.evaluation(("run", "walk", "sit"))
    card = model_card(made.spec(("run", "walk", "sit")), provenance, file="m.onnx", evaluation=evaluation)
    data = ModelCard(card).data
    assert data.to_dict() == front_matter(card)
    assert complaints(card) == []
    assert data.model_name.startswith("cnn3d-")
    top1, _, _ = data.eval_results
    assert (top1.task_type, top1.metric_type) == ("video-classification", "accuracy")
    assert f"interval {evaluation.top1.low:.3f} to {evaluation.top1.high:.3f}" in top1.metric_name
    assert top1.dataset_revision == (provenance.data_version or None)
    assert top1.dataset_name == ("HMDB51" if provenance is REAL else provenance.dataset)


def test_a_card_before_the_evaluation_says_where_the_figures_will_be() -> None:
    card = model_card(made.spec(("run", "walk")), REAL, file="m.ckpt")
    assert "model-index" not in front_matter(card)
    assert "evaluation_report" in card


@pytest.mark.parametrize("groups", [KNOWN, INFERRED, UNKNOWN])
def test_words_follow_what_is_known_of_the_recordings(groups: str) -> None:
    labels = ("run", "walk")
    found = dataclasses.replace(made.evaluation(labels), groups=groups, groups_found="by their backgrounds")
    card = model_card(made.spec(labels), REAL, file="m.onnx", evaluation=found)
    assert ("of 2 classes from 6 source films, of which" in card) == (groups == KNOWN)
    assert ("the intervals are over films." in card) == (groups == KNOWN)
    assert ("of 2 classes from 6 inferred recordings, of which" in card) == (groups == INFERRED)
    assert ("Recordings were inferred by their backgrounds:" in card) == (groups == INFERRED)
    assert ("of 2 classes, of which" in card) == (groups == UNKNOWN)
    assert ("**Split by file: clips of one recording may be on both sides." in card) == (groups == UNKNOWN)


def test_the_sample_and_videos_of_ones_own_are_named_as_such() -> None:
    sample = dataclasses.replace(REAL, dataset="sample", synthetic=True, pretrained="")
    card = model_card(made.spec(("run", "walk")), sample, file="m.onnx")
    assert front_matter(card)["license"] == "apache-2.0"
    assert "synthetic-data" in front_matter(card)["tags"]
    assert "knows nothing of real videos" in card
    assert "HMDB51" not in card
    own = model_card(made.spec(("run", "walk")), dataclasses.replace(REAL, dataset='my: "videos"'), file="m.onnx")
    assert front_matter(own)["license"] == "unknown"
    assert "CC BY" not in own


def test_names_of_classes_are_no_markup() -> None:
    labels = ("<b>", "a|b", "*x*", "[y](z)")
    card = model_card(made.spec(labels), Provenance(dataset="a|<i>"), file="m.onnx", evaluation=made.evaluation(labels))
    body = card.split("---\n", 2)[2]
    assert "&lt;b>, a\\|b, \\*x\\*, \\[y\\](z)." in body
    assert "<b>" not in body
    assert "<i>" not in body
