"""Evaluations and reports of made-up predictions, for tests."""

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image

from har_assets.model.spec import ModelSpec, Provenance
from har_assets.report.cards import Card, strip_halves
from har_assets.report.content import Evaluation, Report, evaluate_with_intervals
from har_assets.report.frames import moving_webp, still_webp, strip
from har_assets.runtime.evaluation import QUARANTINED, evaluate


def predictions(
    labels: Sequence[str],
    *,
    per_class: int = 6,
    right: float = 0.6,
    undecodable: int = 0,
    without_clips: Sequence[str] = (),
    tagged: bool = True,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table as test_predictions publishes it, and its manifest: two clips a film, a share of `right` answers.

    A wrong answer is one of the two neighbours of the true class most of the time.
    """
    rng = np.random.default_rng(seed)
    rows, manifest = [], []
    for index, label in enumerate(labels):
        for number in range(per_class if label not in without_clips else 0):
            film = f"film{index}_{number // 2}"
            tags = f"_{'hulf'[number % 4]}_{('cm', 'nm')[number % 2]}_np1_{('fr', 'le')[number % 2]}_med_{number}"
            name = f"{film}_{label}{tags}.avi" if tagged else f"{film} {number}.avi"
            clip = f"{label}/{name}"
            ranking = list(rng.permutation([other for other in range(len(labels)) if other != index])[:5])
            if rng.random() < 0.7:
                ranking[0] = (index + int(rng.choice([-1, 1]))) % len(labels)
            if rng.random() < right:
                ranking[0] = index
            top = float(rng.uniform(0.3, 1.0))
            lost = len(rows) < undecodable
            row = {"clip": clip, "label": label, "correct": not lost and ranking[0] == index, "runtime": "made"}
            for rank in range(5):
                known = rank < len(ranking) and not lost
                row[f"label_{rank + 1}"] = labels[int(ranking[rank])] if known else ""
                row[f"score_{rank + 1}"] = str(round(top / 2**rank, 4)) if known else ""
            if lost:
                row |= {"label_1": QUARANTINED, "score_1": "0.0"}
            rows.append(row)
            manifest.append({"clip": clip, "label": label, "film": film})
    return pd.DataFrame(rows), pd.DataFrame(manifest)


def evaluation(labels: Sequence[str], **options: object) -> Evaluation:
    table, manifest = predictions(labels, **options)  # type: ignore[arg-type]
    _, confusion_KK = evaluate(table, tuple(labels))
    return evaluate_with_intervals(table, manifest, tuple(labels), confusion_KK)


def spec(labels: Sequence[str]) -> ModelSpec:
    return ModelSpec(labels=tuple(labels))


def card(true: str, answer: str, clip: str = "a/b.avi") -> Card:
    frames_THWC = np.random.default_rng(0).integers(0, 255, (16, 24, 32, 3), dtype=np.uint8)
    return Card(
        clip=clip,
        true=true,
        answer=answer,
        score=0.9,
        true_score=0.05,
        true_rank=2,
        strips=[still_webp(strip(frames_THWC[part], frames_THWC[part])) for part in strip_halves(16)],
        moving=moving_webp(frames_THWC, 40),
        size=(32, 24),
        picture_HWC=strip(frames_THWC[:3]),
    )


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), "white").save(buffer, "PNG")
    return buffer.getvalue()


def report(labels: Sequence[str], **options: object) -> Report:
    """A page on made-up predictions, with a card of a mistake and one of a right answer."""
    cards = bool(options.pop("cards", True))
    quarantine = options.pop("quarantine", [])
    return Report(
        spec=spec(labels),
        provenance=Provenance(dataset="made", data_version="v1", split=1, git_commit="abc"),
        evaluation=evaluation(labels, **options),
        runtime="made",
        windows=4,
        mistakes=[card(labels[0], labels[1])] if cards else [],
        right=[card(labels[0], labels[0])] if cards else [],
        pictures={"reliability.png": png(), "curves.png": png()},
        created="2026-01-01 00:00",
        quarantine=quarantine,  # type: ignore[arg-type]
        training=[("Epochs", "3")],
        versions=[{"asset": "onnx_model", "version": "abc", "made": "2026-01-01 00:00", "what": "made", "link": ""}],
        links=[("MLflow run", "none"), ("Dagster run", "http://127.0.0.1:3000/runs/1")],
    )
