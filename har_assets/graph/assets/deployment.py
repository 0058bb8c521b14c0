"""From the checkpoint to what is deployed: onnx_model, trt_engine."""

from typing import ClassVar

import dagster as dg

from har_assets.export.options import OnnxOptions, TrtEngineOptions
from har_assets.graph.asset import AssetConfig, stage_asset
from har_assets.graph.publishing import made, publish, result_of
from har_assets.graph.resources.mlflow import MlflowTracking
from har_assets.graph.resources.store import ArtifactStore
from har_assets.model.files import ENGINE, ONNX
from har_assets.store.product import Build, Product
from har_assets.store.record import Artifact


class OnnxConfig(OnnxOptions, AssetConfig):
    """Export and its gate."""


@stage_asset(
    "onnx_model",
    ONNX,
    check_specs=[dg.AssetCheckSpec("parity_with_checkpoint", asset="onnx_model", blocking=True)],
)
def onnx_model(
    context: dg.AssetExecutionContext, config: OnnxConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> dg.MaterializeResult:
    """`video_action_model.onnx`: uint8 clips [batch, 3, T, H, W] in, softmax scores [batch, K] out.

    In float32, float16 or 8 bits. Compared with the checkpoint on windows of the test videos before it is
    published, in every precision.
    """
    return result_of(*make_onnx(context, config, store, mlflow))


def make_onnx(
    context: dg.AssetExecutionContext, config: OnnxConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> tuple[Artifact, bool]:
    """onnx_model in a store, and whether it was there already. Raises HarError."""

    def product_of(build: Build) -> Product:
        from har_assets.export.deploy import build_onnx

        return build_onnx(build, config, context.log.info)

    return made(
        context,
        store,
        config,
        product_of,
        name="onnx_model",
        mlflow=mlflow,
    )


class EngineConfig(TrtEngineOptions, AssetConfig):
    """How the engine is built."""

    not_content: ClassVar[frozenset[str]] = frozenset({"timing_cache"})

    timing_cache: bool = True
    """TensorRT only: keep the timings of kernels in the store, so that the next build measures nothing again."""


@stage_asset(
    "trt_engine",
    ENGINE,
    check_specs=[dg.AssetCheckSpec("parity_with_onnx", asset="trt_engine", blocking=True)],
)
def trt_engine(
    context: dg.AssetExecutionContext, config: EngineConfig, store: ArtifactStore, mlflow: MlflowTracking
) -> dg.MaterializeResult:
    """`video_action_model.engine` and, beside it, a JSON that says what it was made from and runs on.

    Built by TensorRT where that and a GPU are there, else by TensorRT-RTX, which needs no GPU. Compared with its
    ONNX model where the GPU of this machine can run it; elsewhere a few clips with their scores lie beside it
    and it is compared when it is first loaded.
    """
    from har_assets.export.tensorrt import builder_identity, engine_holds

    def product_of(build: Build) -> Product:
        from har_assets.export.deploy import build_trt_engine

        caches = store.folder.root / "trt_engine" / ".timing_caches" if config.timing_cache else None
        return build_trt_engine(build, config, timing_caches=caches, log=context.log.info)

    identity = builder_identity(config.builder)
    return publish(
        context,
        store,
        config,
        product_of,
        identity=identity,
        mlflow=mlflow,
        reusable=engine_holds,
    )
