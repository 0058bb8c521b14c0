"""Figures of a made table, counted by hand."""

import numpy as np
import pandas as pd
import pytest

from har_assets.runtime.evaluation import QUARANTINED, evaluate, prediction_table

LABELS = ("a", "b", "c", "d", "e", "f")


def ranking(first: str, *others: str) -> np.ndarray:
    """Scores by which these labels come in this order, the rest after them."""
    order = [first, *others, *(label for label in LABELS if label not in (first, *others))]
    scores_K = np.zeros(len(LABELS), np.float32)
    for place, label in enumerate(order):
        scores_K[LABELS.index(label)] = 0.5 / 2**place
    return scores_K


@pytest.fixture
def table() -> pd.DataFrame:
    """Six videos of a, two right; one of b, right; one of c that gave no frame."""
    manifest = pd.DataFrame(
        {
            "clip": [f"{number}.avi" for number in range(8)],
            "label": ["a", "a", "a", "a", "a", "a", "b", "c"],
        }
    )
    scores = {
        "0.avi": ranking("a"),
        "1.avi": ranking("a"),
        "2.avi": ranking("b", "a"),
        "3.avi": ranking("b", "c", "d", "e", "a"),  # in fifth place
        "4.avi": ranking("b", "c", "d", "e", "f", "a"),  # in sixth
        "5.avi": ranking("c", "a"),
        "6.avi": ranking("b"),
    }
    return prediction_table(scores, manifest, LABELS, "made")[0]


def test_figures_of_a_made_table(table: pd.DataFrame) -> None:
    figures, confusion_KK = evaluate(table, LABELS)
    assert figures["videos"] == 8
    assert figures["quarantined"] == 1
    assert figures["top1"] == pytest.approx(3 / 8)  # the one without frames counts as wrong
    assert figures["top5"] == pytest.approx(6 / 8)
    assert figures["mean_class_accuracy"] == pytest.approx((2 / 6 + 1 + 0) / 3)
    assert figures["per_class"] == [
        {"class": "a", "accuracy": 0.3333, "videos": 6},
        {"class": "b", "accuracy": 1.0, "videos": 1},
        {"class": "c", "accuracy": 0.0, "videos": 1},
    ]
    assert confusion_KK.sum() == 7
    assert confusion_KK[0].tolist() == [2, 3, 1, 0, 0, 0]
    assert confusion_KK[1].tolist() == [0, 1, 0, 0, 0, 0]


def test_the_table_holds_the_five_best_in_order(table: pd.DataFrame) -> None:
    row = table.iloc[3]
    assert [row[f"label_{rank}"] for rank in range(1, 6)] == ["b", "c", "d", "e", "a"]
    assert [row[f"score_{rank}"] for rank in range(1, 6)] == [0.5, 0.25, 0.125, 0.0625, 0.03125]
    assert not row["correct"]
    last = table.iloc[7]
    assert (last["label_1"], last["score_1"], last["label_2"], bool(last["correct"])) == (QUARANTINED, 0.0, "", False)


def test_without_videos_all_figures_are_zero(table: pd.DataFrame) -> None:
    figures, confusion_KK = evaluate(table.iloc[:0], LABELS)
    assert (figures["videos"], figures["top1"], figures["top5"], figures["mean_class_accuracy"]) == (0, 0.0, 0.0, 0.0)
    assert confusion_KK.sum() == 0
