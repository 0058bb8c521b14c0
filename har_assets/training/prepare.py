"""Before and after a training: the request that it is started with, and the product that its work folder becomes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from har_assets.dataset.class_index import read_class_index
from har_assets.errors import HarError
from har_assets.model.files import CARD, CHECKPOINT, CURVES, WEIGHTS
from har_assets.model.recipe import CheckpointOptions, TrainingOptions
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact
from har_assets.system.files import silent
from har_assets.training.request import CHECKPOINT_FILE, CONFUSION_FILE, HISTORY_FILE, TrainingRequest
from har_assets.video.options import FrameOptions


def prepare_request(
    build: Build, options: CheckpointOptions, project: Path, *, place: Mapping[str, Any], mlflow: Mapping[str, Any]
) -> TrainingRequest:
    """Everything that the training process needs.

    Args:
        build: its inputs are manifests, frame cache, class index and, where the options say so, pretrained weights.
        options: how to train.
        project: folder whose git commit the model names.
        place: `ray_job`, `node_needs` and `store` of a training over a Ray cluster, else nothing.
        mlflow: the fields `mlflow_*` of the request; its tags are completed here.

    Raises:
        HarError: the weights are of another network, or an option is impossible.
    """
    inputs = build.inputs
    lineage = inputs["frame_cache"].record.lineage
    frames = FrameOptions.from_recorded(inputs["frame_cache"].record.config, silent)
    if 0 < frames.max_frames < options.num_frames:
        raise HarError(
            f"A clip of {options.num_frames} frames is longer than the {frames.max_frames} that frame_cache keeps of a "
            "training video: raise max_frames of frame_cache (0 keeps all), or lower num_frames."
        )
    spec = ModelSpec(
        labels=read_class_index(inputs["class_index"]),
        network=options.network,
        num_frames=options.num_frames,
        frame_stride=frames.stride,
        fps=frames.fps,
        resize=frames.resize,
        decode_height=frames.height,
        decode_width=frames.width,
        frame_height=options.frame_height,
        frame_width=options.frame_width,
    )
    provenance = Provenance(
        dataset=lineage["dataset"],
        synthetic=lineage["synthetic"],
        data_version=lineage["data_version"],
        split=lineage["split"],
        # A project folder without git: the commit of the code.
        git_commit=git_commit(project) or git_commit(Path(__file__).parent),
        pretrained=weights_in_words(inputs.get("pretrained_weights"), options.network),
    )
    tags = {
        **mlflow.get("mlflow_tags", {}),
        "dataset": provenance.dataset,
        "synthetic": str(provenance.synthetic).lower(),
        "data_version": provenance.data_version,
        "dvc_md5": provenance.data_version,
        "split": str(provenance.split),
        "git_commit": provenance.git_commit,
    }
    return TrainingRequest(
        work=str(build.work),
        spec=spec.to_json(),
        provenance=provenance.to_json(),
        manifests={role: str(inputs[f"{role}_manifest"].file(f"{role}.csv")) for role in ("train", "val")},
        frame_cache=str(inputs["frame_cache"].folder),
        pretrained=str(inputs["pretrained_weights"].file(WEIGHTS)) if options.pretrained else "",
        origins={str(artifact.folder): artifact.address for artifact in inputs.values()} if place else {},
        **options.model_dump(include=set(TrainingOptions.model_fields)),
        **place,
        **{**mlflow, "mlflow_tags": tags},
    )


def weights_in_words(weights: Artifact | None, network: str) -> str:
    """Name of the weights for the model's provenance; HarError where they are of another network."""
    if weights is None:
        return ""
    facts = weights.record.metadata
    if facts["network"] != network:
        raise HarError(
            f"pretrained_weights holds {facts['network'] or 'none'}, not {network}: materialize it with network: "
            f"{network}, or in the same run as trained_checkpoint."
        )
    return f"{facts['dataset']}, {facts['file']}, SHA-256 {facts['sha256'][:12]}"


def checkpoint_product(
    build: Build, options: CheckpointOptions, request: TrainingRequest, summary: dict[str, Any], link: str
) -> Product:
    """Copy what a training has left in its work folder, write the model card, and say what it is.

    Args:
        build: of the product.
        options: as recorded.
        request: that the training was started with.
        summary: what it returned.
        link: where people see its MLflow run; empty without one.
    """
    from har_assets.report.card import model_card, training_facts

    pictures = (CURVES, *([CONFUSION_FILE] if summary["validated"] else []))
    for source, name in ((CHECKPOINT_FILE, CHECKPOINT), (HISTORY_FILE,) * 2, *((name, name) for name in pictures)):
        shutil.copy2(build.work / source, build.folder / name)
    weights = build.inputs.get("pretrained_weights")
    card = model_card(
        ModelSpec.from_json(json.dumps(summary["spec"])),
        dataclasses.replace(Provenance.from_json(request.provenance), mlflow_run_id=summary["mlflow_run_id"]),
        file=CHECKPOINT,
        weights_licence=weights.record.metadata["licence"] if weights else "",
        facts=training_facts(summary, options.recorded()),
    )
    (build.folder / CARD).write_text(card, encoding="utf-8")
    best = f"epoch {summary['best_epoch'] + 1} of {summary['epochs_run']}"
    top1 = f"validation top-1 {summary['val_top1']:.3f}" if summary["validated"] else "no validation clips"
    return Product(
        headline=f"{top1} ({best})",
        metadata={**summary, "mlflow_run": link or "none: tracking is off"},
        pictures=pictures,
        lineage={"mlflow_run_id": summary["mlflow_run_id"]},
    )


def weights_product(build: Build, network: str) -> Product:
    """Write the published weights of a network as a state dict; an empty product without a network."""
    if not network:
        return Product(headline="none: networks are trained from scratch", metadata={"network": ""})
    import torch

    from har_assets.model.pretrained import pretrained_state

    state, weights = pretrained_state(network)
    torch.save(state, build.folder / WEIGHTS)
    return Product(
        headline=f"{network} on {weights.dataset}, {weights.num_bytes / 1e6:.0f} MB, {weights.licence}",
        metadata=weights.to_dict(),
    )


def git_commit(folder: Path) -> str:
    """Commit of a working tree, `-dirty` where tracked files differ from it; empty outside git."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "diff", "--quiet", "HEAD"], cwd=folder, capture_output=True, check=False
        ).returncode
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit}-dirty" if changed else commit
