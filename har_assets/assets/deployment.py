"""From the checkpoint to what is deployed: onnx_model, trt_engine."""

from typing import TYPE_CHECKING

import dagster as dg

from har_assets.artifacts import Artifact
from har_assets.assets.dataset import read_manifest_of
from har_assets.assets.publishing import AssetConfig, Making, Product, publish
from har_assets.assets.training import CHECKPOINT
from har_assets.errors import HarError
from har_assets.model.spec import ModelSpec
from har_assets.resources.mlflow import MlflowTracking
from har_assets.resources.store import ArtifactStore

if TYPE_CHECKING:
    from har_assets.runtime.predictor import Clips

ONNX = "video_action_model.onnx"
ENGINE = "video_action_model.engine"


class OnnxConfig(AssetConfig):
    """Export and its gate."""

    parity_clips: int = 64
    """Clips of the test manifest on which ONNX and checkpoint are compared, evenly spread over it."""
    max_difference: float = 1e-4
    """Largest |difference| of any score that is published."""
    top1_agreement: float = 1.0
    """Smallest share of clips with the same top-1 that is published."""


@dg.asset(
    deps=["trained_checkpoint", "frame_cache", "test_manifest"],
    group_name="deployment",
    kinds={"onnx"},
    code_version="1",
    tags={"har/stage": "deployment"},
    check_specs=[dg.AssetCheckSpec("parity_with_checkpoint", asset="onnx_model", blocking=True)],
)
def onnx_model(
    context: dg.AssetExecutionContext, config: OnnxConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> dg.MaterializeResult:
    """`video_action_model.onnx`: uint8 clips [batch, 3, T, H, W] in, softmax scores [batch, K] out.

    Compared with the checkpoint on clips of the test manifest before it is published.
    """

    def build(making: Making) -> Product:
        from har_assets.export.onnx import export_onnx  # noqa: PLC0415
        from har_assets.model.parity import compare  # noqa: PLC0415
        from har_assets.runtime.checkpoint import CheckpointPredictor  # noqa: PLC0415
        from har_assets.runtime.onnx import OnnxPredictor  # noqa: PLC0415

        checkpoint = making.inputs["trained_checkpoint"].file(CHECKPOINT)
        path = export_onnx(checkpoint, making.folder / ONNX)
        parent, child = CheckpointPredictor(checkpoint, device="cpu"), OnnxPredictor(path, provider="CPU")
        clips_BCTHW = some_clips(making.inputs, parent.spec, config.parity_clips)
        parity = compare(
            parent.predict(clips_BCTHW),
            child.predict(clips_BCTHW),
            max_difference=config.max_difference,
            top1_agreement=config.top1_agreement,
        )
        parity.require("The ONNX model", "the checkpoint")
        with mlflow.continued_run(store.project_folder, parent.provenance.mlflow_run_id) as run:
            if run:
                run.metrics(
                    {
                        "onnx_max_difference": parity.max_difference,
                        "onnx_top1_agreement": parity.top1_agreement,
                    }
                )
                run.file(path)
        return Product(
            headline=f"parity on {parity.clips} clips: max |difference| {parity.max_difference:.1e}, "
            f"same top-1 {parity.top1_agreement:.1%}",
            metadata={"parity": parity.to_dict(), "compared": f"{parent.runtime} and {child.runtime}"},
            checks={"parity_with_checkpoint": parity.to_dict()},
        )

    return publish(context, store, config, build, upstream=("trained_checkpoint", "frame_cache", "test_manifest"))


def some_clips(inputs: dict[str, Artifact], spec: ModelSpec, count: int) -> "Clips":
    """Centre windows of up to `count` decoded clips, spread over the test manifest: uint8 [B, 3, T, H, W].

    Falls back to every clip of the cache where no test clip could be decoded.
    """
    import numpy as np  # noqa: PLC0415

    from har_assets.runtime.video import video_clips  # noqa: PLC0415
    from har_assets.video.frame_cache import FrameCache  # noqa: PLC0415

    cache = FrameCache(inputs["frame_cache"].folder)
    names = [name for name in read_manifest_of(inputs["test_manifest"], "test")["clip"] if name in cache]
    names = names or list(cache.index["clip"])
    chosen = [
        names[index] for index in np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int))
    ]
    return np.concatenate([video_clips(cache.frames(name), spec, 1) for name in chosen])


class EngineConfig(AssetConfig):
    """How the engine is built."""

    builder: str = "auto"
    """`tensorrt` (needs a GPU and the extra [tensorrt]), `tensorrt_rtx` (builds anywhere), or `auto`."""
    targets: list[str] = ["8.0", "8.6", "8.9", "12.0"]
    """Compute capabilities that a TensorRT-RTX engine is to run on."""
    opt_batch: int = 8
    """Batch size that kernels are chosen for."""
    max_batch: int = 64
    """Largest batch size that the engine takes."""


@dg.asset(
    deps=[onnx_model],
    group_name="deployment",
    kinds={"tensorrt"},
    code_version="1",
    pool="gpu",
    tags={"har/stage": "deployment"},
)
def trt_engine(
    context: dg.AssetExecutionContext, config: EngineConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> dg.MaterializeResult:
    """`video_action_model.engine` and, beside it, a JSON that says what it was made from and runs on.

    Built by TensorRT where that and a GPU are there, else by TensorRT-RTX, which needs no GPU.
    """

    def build(making: Making) -> Product:
        from har_assets.export.tensorrt import EngineOptions, build_engine, sidecar_path  # noqa: PLC0415

        onnx = making.inputs["onnx_model"]
        refuse_failed_parity(onnx)
        options = EngineOptions(config.builder, tuple(config.targets), config.opt_batch, config.max_batch)
        path = making.folder / ENGINE
        engine = build_engine(onnx.file(ONNX), path, options)
        not_measured = "not measured: the engine has not been loaded on a fitting GPU yet"
        with mlflow.continued_run(store.project_folder, onnx.record.lineage.get("mlflow_run_id", "")) as run:
            if run:
                run.file(path)
                run.file(sidecar_path(path))
        figures = {k: v for k, v in engine.items() if k not in ("spec", "provenance", "log")}
        return Product(
            headline=f"{engine['builder']} {engine['builder_version']}, {engine['precision']}, "
            f"{engine['engine_bytes'] / 1e3:.0f} kB, for SM {', '.join(engine['compute_capabilities'])}",
            metadata={**figures, "build_log": engine["log"], "parity": not_measured},
        )

    return publish(context, store, config, build, upstream=("onnx_model",))


def refuse_failed_parity(artifact: Artifact) -> None:
    """HarError unless the parity that was published with a model passed."""
    parity = artifact.record.metadata.get("parity")
    if not (isinstance(parity, dict) and parity.get("passed")):
        raise HarError(
            f"{artifact.record.asset} did not pass its parity gate: materialize it again and look at its metadata."
        )
