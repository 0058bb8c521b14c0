"""The table of stages: every asset that is made, written once. `data_dvc`, only observed, is in assets/data_dvc.py.

Dependencies, keys, automation, `har status`, split_evaluation, the demo and the documents read it. Nothing here imports
Dagster, so the command line reads it as well.

    python -m har_assets.graph.stage            the selection that `make demo` builds
    python -m har_assets.graph.stage --mermaid  the graph of the README
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

ROLES = ("train", "val", "test")
MANIFESTS = tuple(f"{role}_manifest" for role in ROLES)
COMPARED_ON = ("frame_cache", *(f"{role}_manifest" for role in ("test", "val", "train")))
"""Inputs on which conversions are compared and calibrated."""


@dataclass(frozen=True)
class Stage:
    """One asset."""

    name: str
    group: str
    kinds: frozenset[str]
    """Badges in the web UI."""
    version: str
    """Version of the code, part of every key; raised when the same inputs and options give another product."""
    inputs: tuple[str, ...] = ()
    """Assets whose latest versions it is made from, part of every key."""
    also: tuple[str, ...] = ()
    """Further assets that it depends on: inputs under some options only, or read otherwise than as a latest version."""
    follows: tuple[str, ...] = ()
    """Those whose change makes it again under automation_sensor.

    A deployed model follows its checkpoint alone: on new data it waits for the model that was trained on them, and
    refuses the old one. Assets without an input follow nothing, nor does trained_checkpoint, which the weekly
    retraining makes, nor a benchmark, which wants an idle machine."""
    gpu: bool = False
    """It takes the slot of the pool `gpu`."""
    cpus: float = 1
    """CPUs of a node of a Ray cluster; 0 leaves them and the GPUs to the tasks that the step starts."""
    project: bool = False
    """On a Ray cluster it runs on the node that has the project's folder."""
    weekly: bool = False
    """The weekly retraining makes or confirms it, so its age is watched."""
    per_split: bool = False
    """split_evaluation makes one of its own for each official split."""
    partitioned: bool = False
    """There is no one latest version: it has partitions."""
    demo: bool = False
    """`make demo` builds it, with everything upstream."""

    @property
    def deps(self) -> tuple[str, ...]:
        """Every asset upstream."""
        return (*self.inputs, *self.also)


def _manifest(role: str) -> Stage:
    return Stage(
        f"{role}_manifest",
        "dataset",
        frozenset({"pandas"}),
        "1",
        ("video_clips",),
        follows=("video_clips",),
        per_split=True,
    )


_TABLE = (
    Stage("raw_archive", "dataset", frozenset({"python"}), "1", project=True),
    Stage(
        "video_clips",
        "dataset",
        frozenset({"dvc"}),
        "2",
        ("raw_archive",),
        ("data_dvc",),
        follows=("raw_archive", "data_dvc"),
        project=True,
    ),
    *map(_manifest, ROLES),
    Stage("class_index", "dataset", frozenset({"csv"}), "1", ("video_clips",), follows=("video_clips",)),
    Stage(
        "frame_cache",
        "dataset",
        frozenset({"numpy"}),
        "2",
        MANIFESTS,
        follows=MANIFESTS,
        cpus=0,
        per_split=True,
    ),
    Stage("pretrained_weights", "training", frozenset({"pytorch"}), "1"),
    Stage(
        "trained_checkpoint",
        "training",
        frozenset({"pytorch", "mlflow"}),
        "2",
        ("frame_cache", "train_manifest", "val_manifest", "class_index"),
        ("pretrained_weights",),
        gpu=True,
        weekly=True,
        per_split=True,
    ),
    Stage(
        "onnx_model",
        "deployment",
        frozenset({"onnx"}),
        "2",
        ("trained_checkpoint", *COMPARED_ON),
        follows=("trained_checkpoint",),
        gpu=True,
        weekly=True,
        per_split=True,
    ),
    Stage(
        "trt_engine",
        "deployment",
        frozenset({"tensorrt"}),
        "2",
        ("onnx_model", *COMPARED_ON),
        follows=("onnx_model",),
        gpu=True,
        weekly=True,
    ),
    Stage(
        "serving_model",
        "deployment",
        frozenset({"mlflow", "onnx"}),
        "1",
        ("onnx_model",),
        follows=("onnx_model",),
        gpu=True,
    ),
    Stage(
        "test_predictions",
        "evaluation",
        frozenset({"onnx", "pandas"}),
        "2",
        ("onnx_model", "test_manifest", "frame_cache"),
        follows=("onnx_model",),
        gpu=True,
        cpus=0,
        weekly=True,
        per_split=True,
    ),
    Stage(
        "evaluation_report",
        "evaluation",
        frozenset({"html"}),
        "1",
        ("test_predictions", "onnx_model", "trained_checkpoint", "test_manifest", "frame_cache"),
        follows=("test_predictions",),
        gpu=True,
        demo=True,
    ),
    Stage(
        "runtime_benchmark",
        "deployment",
        frozenset({"python"}),
        "1",
        ("onnx_model", "trained_checkpoint", "trt_engine", "test_manifest", "frame_cache"),
        gpu=True,
        demo=True,
    ),
    Stage(
        "split_evaluation",
        "evaluation",
        frozenset({"pytorch", "onnx"}),
        "1",
        also=("class_index", "pretrained_weights", "video_clips"),
        gpu=True,
        partitioned=True,
    ),
    Stage("hmdb51_benchmark", "evaluation", frozenset({"csv"}), "1", also=("split_evaluation",)),
    Stage(
        "incoming_video_predictions",
        "inference",
        frozenset({"onnx"}),
        "1",
        also=("onnx_model",),
        gpu=True,
        project=True,
        partitioned=True,
    ),
)

STAGES = {stage.name: stage for stage in _TABLE}
"""By name, in the order in which they are made."""

SHARED_BY_SPLITS = frozenset(STAGES["split_evaluation"].deps)
"""Products that all splits are made from."""


def demo_selection() -> str:
    """The selection that `make demo` builds, for `dagster asset materialize --select`."""
    return " or ".join(f"+key:{stage.name}" for stage in _TABLE if stage.demo)


def mermaid() -> str:
    """The graph as the README shows it: each stage below the last of its inputs, the manifests in one box."""
    order = list(STAGES)
    lines = ["flowchart LR"]
    boxes = dict.fromkeys(MANIFESTS, "manifests")
    drawn = set()
    for stage in _TABLE:
        ahead = [name for name in stage.inputs if not any(name in STAGES[other].inputs for other in stage.inputs)]
        for name, arrow in (
            *((name, "-->") for name in sorted(ahead, key=order.index)),
            *((name, "-.->") for name in stage.also),
        ):
            edge = (boxes.get(name, name), arrow, boxes.get(stage.name, stage.name))
            if edge not in drawn:
                drawn.add(edge)
                lines.append(f"    {edge[0]} {arrow} {edge[2]}")
    label = "<br>".join(MANIFESTS)
    return "\n".join(lines).replace("--> manifests\n", f'--> manifests["{label}"]\n', 1)


if __name__ == "__main__":
    print(mermaid() if "--mermaid" in sys.argv else demo_selection())
