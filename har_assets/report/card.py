"""Model cards: Markdown with the front matter that model hubs read, to lie beside a model as README.md.

Format: "Model Cards" in the documentation of the Hugging Face Hub. A model is published before it is tested, so the
card beside it has no test figures and says where they are; the one of evaluation_report has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from har_assets.dataset.groups import INFERRED, UNKNOWN
from har_assets.model.recipe import TrainingOptions
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.system.files import silent

if TYPE_CHECKING:
    from har_assets.report.content import Evaluation
    from har_assets.report.statistics import Estimate

HMDB51_LICENCE = "CC BY 4.0"
HMDB51_PAGE = "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/"


SUMMARY_FIELDS = frozenset(
    {
        "train_clips",
        "val_clips",
        "validated",
        "epochs_run",
        "best_epoch",
        "device",
        "precision",
        "seconds",
    }
)

RECIPE_FIELDS = frozenset({"optimizer", "learning_rate", "schedule", "batch_size", "seed"})
"""The parts of a summary and of a configuration that `training_facts` reads."""


def data_name(provenance: Provenance) -> str:
    """The data set for people: `HMDB51`, `the synthetic sample`, `your_folder`."""
    known = {"sample": "the synthetic sample", "hmdb51": "HMDB51", "": "unnamed videos"}
    return known.get(provenance.dataset, provenance.dataset)


def model_card(
    spec: ModelSpec,
    provenance: Provenance,
    *,
    file: str,
    weights_licence: str = "",
    facts: Sequence[tuple[str, str]] = (),
    evaluation: Evaluation | None = None,
    pictures: Sequence[str] = (),
) -> str:
    """The card of a model as Markdown.

    Args:
        spec: of the model.
        provenance: of the model.
        file: name of the model file that the card is about.
        weights_licence: licence of the weights that training started from.
        facts: more names and values for the table (how it was trained, its parity).
        evaluation: test figures with intervals; None where they do not exist yet.
        pictures: names of image files beside the card that it shows with the figures.
    """
    dataset = data_name(provenance)
    rows = [
        ("Network", f"{spec.network}, started from {provenance.pretrained or 'nothing (trained from scratch)'}"),
        (
            "Input",
            f"uint8 RGB [batch, 3, {spec.num_frames}, {spec.frame_height}, {spec.frame_width}], "
            f"{spec.fps / spec.frame_stride:g} frames a second, so that a clip spans {spec.clip_s:.2f} s of a video of "
            "any frame rate; scaling and normalisation are inside",
        ),
        ("Output", f"scores of {spec.num_classes} classes that sum to 1"),
        ("Data", f"{dataset}, split {provenance.split}"),
        ("Data version", provenance.data_version or "unknown"),
        ("MLflow run", provenance.mlflow_run_id or "none"),
        ("Code", provenance.git_commit or "not in git"),
        *facts,
    ]
    parts = [
        _front_matter(spec, provenance, evaluation),
        f"# {_escaped(spec.network)} for human actions, trained on {_escaped(dataset)}",
        f"`{file}` says which of {spec.num_classes} actions a short video shows."
        + (
            " **It was trained on the synthetic sample of har_assets, drawn by a program. It is a demonstration and "
            "knows nothing of real videos.**"
            if provenance.synthetic
            else ""
        ),
        "## The model",
        _table(("", ""), rows),
        "Classes, in the order of the scores: " + ", ".join(_escaped(label) for label in spec.labels) + ".",
        "## How to use it",
        "```python\nfrom pathlib import Path\nfrom har_assets.runtime import open_model\n"
        "from har_assets.runtime.video import predict_video\n\n"
        f'print(predict_video(open_model("{file}"), Path("clip.avi")).labels)\n```',
        "## Test figures",
        _figures(evaluation, provenance, pictures),
        "## Limits",
        _limits(spec, provenance),
        "## Licences",
        _licences(provenance, weights_licence),
    ]
    return "\n\n".join(parts) + "\n"


def training_facts(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Data, recipe and duration of a training, as names and values.

    `summary` is what the training process returns (`training.fit.fit`), `config` that of trained_checkpoint. A
    checkpoint from elsewhere has neither, one of an old version not all of it.
    """
    try:
        options = TrainingOptions.from_recorded(
            {name: value for name, value in config.items() if name in TrainingOptions.model_fields}, silent
        )
    except ValidationError:
        options = None
    if not summary.keys() >= SUMMARY_FIELDS or options is None or not options.model_fields_set >= RECIPE_FIELDS:
        return [("Training", "not recorded with the checkpoint")]
    validated = f", validation top-1 {summary['val_top1']:.3f} in it" if summary["validated"] else ""
    kept = "the best is kept" if summary["validated"] else "there are no validation videos, so the last is kept"
    return [
        ("Training videos", f"{summary['train_clips']:,}, and {summary['val_clips']:,} for validation"),
        ("Epochs", f"{summary['epochs_run']}; {kept}, number {summary['best_epoch'] + 1}{validated}"),
        (
            "Recipe",
            f"{options.optimizer}, learning rate {options.learning_rate:g}, {options.schedule}, batches "
            f"of {options.batch_size}, seed {options.seed}",
        ),
        ("Trained on", f"{summary['device']} in {summary['precision']}, {summary['seconds']:,.0f} s"),
    ]


def _front_matter(spec: ModelSpec, provenance: Provenance, evaluation: Evaluation | None) -> str:
    """YAML that the Hugging Face Hub accepts: no empty value, and a `type` of the data set in letters and -_. only."""
    name = data_name(provenance)
    head: dict[str, Any] = {
        "license": {"hmdb51": "cc-by-4.0", "sample": "apache-2.0"}.get(provenance.dataset, "unknown"),
        "library_name": "har_assets",
        "pipeline_tag": "video-classification",
        "tags": ["video-classification", "action-recognition", spec.network],
        "metrics": ["accuracy"],
    }
    if provenance.synthetic:
        head["tags"].append("synthetic-data")
    if evaluation is not None:
        dataset = {
            "name": name,
            "type": re.sub(r"[^\w.-]+", "-", provenance.dataset or "unnamed", flags=re.ASCII),
            "config": f"split {provenance.split}",
            "split": "test",
        }
        if provenance.data_version:
            dataset["revision"] = provenance.data_version
        metrics = [
            {
                "type": kind,
                "name": f"{title}, 95 % interval {estimate.low:.3f} to {estimate.high:.3f}",
                "value": round(float(estimate.value), 4),
            }
            for kind, title, estimate in _estimates(evaluation)
        ]
        result = {"task": {"type": head["pipeline_tag"]}, "dataset": dataset, "metrics": metrics}
        head["model-index"] = [{"name": f"{spec.network}-{name}", "results": [result]}]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def _estimates(evaluation: Evaluation) -> list[tuple[str, str, Estimate]]:
    return [
        ("accuracy", "top-1 accuracy", evaluation.top1),
        ("top_5_accuracy", "top-5 accuracy", evaluation.top5),
        ("mean_class_accuracy", "mean class accuracy", evaluation.mean_class),
    ]


def _figures(evaluation: Evaluation | None, provenance: Provenance, pictures: Sequence[str]) -> str:
    if evaluation is None:
        return (
            "They are made after the model: materialize evaluation_report, whose folder "
            "(`artifacts/evaluation_report/latest/`) has this card with them, and a page with everything else."
        )
    rows = [
        (title, f"{estimate.value:.3f}", f"{estimate.low:.3f} to {estimate.high:.3f}")
        for _, title, estimate in _estimates(evaluation)
    ]
    error = evaluation.calibration_error
    return "\n\n".join(
        [
            _table(("figure", "value", "95 % interval"), rows),
            f"On {evaluation.videos:,} test videos of {len(evaluation.classes)} classes{_source(evaluation)}, of which "
            f"{evaluation.quarantined} could not be decoded and count as wrong. {_promise(evaluation)}"
            + (f" Expected calibration error {error:.3f}." if error is not None else "")
            + (
                " Published figures of HMDB51 are the mean of three splits; these are of one."
                if _real(provenance)
                else ""
            ),
            *(f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in pictures),
        ]
    )


def _source(evaluation: Evaluation) -> str:
    if evaluation.groups == UNKNOWN:
        return ""
    return f" from {evaluation.films:,} {'inferred recordings' if evaluation.groups == INFERRED else 'source films'}"


def _promise(evaluation: Evaluation) -> str:
    """Which videos the intervals hold for, as far as recordings are known."""
    if evaluation.groups == UNKNOWN:
        return (
            "**Split by file: clips of one recording may be on both sides. Expect less on new recordings.** The "
            "intervals take every video for independent."
        )
    if evaluation.groups == INFERRED:
        return (
            f"Recordings were inferred {_escaped(evaluation.groups_found)}: the intervals are over them, and hold as "
            "far as they are right."
        )
    return "Clips of one film are alike: the intervals are over films."


def _limits(spec: ModelSpec, provenance: Provenance) -> str:
    what = (
        "drawn figures of the sample"
        if provenance.synthetic
        else "short clips of films and web videos, chosen because one of these actions is seen in them"
        if _real(provenance)
        else "the videos that it was trained on"
    )
    return "\n".join(
        [
            f"- It knows {spec.num_classes} actions and always names one of them, also where none is seen. It was made "
            f"for {what}; on other videos its figures do not hold.",
            "- A high score is no proof. The report's section on scores says how often such answers are right.",
            "- It judges a clip as a whole: it does not say who acts, where in the picture, or when.",
            "- Not for watching or judging people: no surveillance, no decision about a person. Who is seen in the "
            "training clips, and how often, was not balanced, and accuracy was not compared between groups of people.",
        ]
    )


def _licences(provenance: Provenance, weights_licence: str) -> str:
    lines = ["- Code: Apache-2.0 (har_assets)."]
    if provenance.synthetic:
        lines.append("- Data: the synthetic sample, rendered by har_assets (Apache-2.0).")
    elif _real(provenance):
        lines.append(
            f"- Data: [HMDB51]({HMDB51_PAGE}), {HMDB51_LICENCE}: H. Kuehne, H. Jhuang, E. Garrote, T. Poggio, "
            'T. Serre, "HMDB: A Large Video Database for Human Motion Recognition", ICCV 2011. Its clips come from '
            "films and web videos with rights of their own."
        )
    else:
        lines.append("- Data: your own; name its licence here before you pass the model on.")
    if provenance.pretrained:
        lines.append(f"- Weights that training started from: {_escaped(provenance.pretrained)}; {weights_licence}.")
    return "\n".join(lines)


def _real(provenance: Provenance) -> bool:
    return provenance.dataset.startswith("hmdb51") and not provenance.synthetic


def _table(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [heading, ["---"] * len(heading), *([_escaped(str(cell)) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escaped(text: str) -> str:
    """Text that Markdown takes as it is: no HTML, no table border, no emphasis."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|" else letter for letter in text)
