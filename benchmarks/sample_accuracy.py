"""Test accuracy on the built-in sample: three seeds, and as a control three trainings on single repeated frames.

    python -m benchmarks.sample_accuracy            about eight minutes on two cores

Needs the sample road (`make demo`); trains with its recipe, evaluates by video as test_predictions does.
"""

import json
import statistics
import tempfile
from pathlib import Path

from har_assets.artifacts import ArtifactFolder
from har_assets.assets.evaluation import evaluate, predict_manifest
from har_assets.assets.training import RECIPE, TrainingConfig
from har_assets.model.spec import ModelSpec, Provenance
from har_assets.runtime import open_model
from har_assets.training.fit import fit
from har_assets.training.request import TrainingRequest

SEEDS = (0, 1, 2)
WINDOWS = 4


def main() -> None:
    """Train six times and print one line each, then the means."""
    store = ArtifactFolder(Path("artifacts"))
    inputs = {name: store.latest(name) for name in ("frame_cache", "train_manifest", "val_manifest", "test_manifest")}
    checkpoint = store.latest("trained_checkpoint").record
    config = TrainingConfig()
    spec = ModelSpec.from_json(json.dumps(checkpoint.metadata["spec"]))
    results: dict[str, list[float]] = {"moving": [], "still": []}
    for kind, top1s in results.items():
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as work:
                request = TrainingRequest(
                    work=work,
                    spec=spec.to_json(),
                    provenance=Provenance(dataset="sample", synthetic=True).to_json(),
                    manifests={role: str(inputs[f"{role}_manifest"].file(f"{role}.csv")) for role in ("train", "val")},
                    frame_cache=str(inputs["frame_cache"].folder),
                    epochs=config.epochs,
                    batch_size=config.batch_size,
                    recipe={name: getattr(config, name) for name in RECIPE},
                    seed=seed,
                    still_frames=kind == "still",
                )
                summary = fit(request, lambda line: None)
                predictor = open_model(Path(work) / "model.ckpt")
                table, _ = predict_manifest(predictor, inputs, WINDOWS, still_frames=kind == "still")
            figures, _ = evaluate(table, spec.labels)
            top1s.append(figures["top1"])
            print(
                f"{kind} frames, seed {seed}: test top-1 {figures['top1']:.3f} on {figures['videos']} videos, "
                f"{summary['seconds']:.0f} s of training",
                flush=True,
            )
    for kind, top1s in results.items():
        print(f"{kind} frames, mean of {len(top1s)} seeds: {statistics.mean(top1s):.3f}")


if __name__ == "__main__":
    main()
