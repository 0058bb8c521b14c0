"""Checkpoint to ONNX: uint8 clips_BCTHW in, softmax scores_BK out, everything else inside."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from har_assets.errors import HarError
from har_assets.model.integrity import seal, verify
from har_assets.model.spec import ModelSpec, Provenance, from_metadata, to_metadata

if TYPE_CHECKING:
    import onnx
    import torch

INPUT_NAME = "clips"
OUTPUT_NAME = "scores"
OPSET = 20
"""TensorRT-RTX 1.7 and ONNX Runtime 1.31 both read it."""


def export_onnx(checkpoint: Path, target: Path) -> Path:
    """Write the ONNX form of a checkpoint and return its path.

    Input `clips`: uint8 [batch, 3, T, H, W], batch dynamic. Output `scores`: float32 [batch, K].
    `metadata_props` carries the model spec and its provenance; BatchNorm is folded into the convolutions.
    The bytes depend on the checkpoint and the installed versions alone, not on the folder they are made in.

    Raises:
        ModelFileError: the checkpoint is missing, damaged or foreign.
        HarError: the network uses what ONNX does not have; the sentence names it.
    """
    import torch

    from har_assets.model.lightning import DeployedModel, load_checkpoint

    model = load_checkpoint(checkpoint)
    deployed = DeployedModel(model).eval().to(memory_format=torch.contiguous_format)
    # Two clips: a batch of one would be taken for a constant by torch.export.
    example_BCTHW = torch.zeros((2, *model.spec.clip_shape_CTHW), dtype=torch.uint8)
    return write_onnx(converted(deployed, example_BCTHW, model.spec.network), model.spec, model.provenance, target)


def converted(module: torch.nn.Module, example_BCTHW: torch.Tensor, network: str) -> onnx.ModelProto:
    """The ONNX graph of a module whose forward takes `clips_BCTHW`, uint8 [batch, 3, T, H, W], batch dynamic.

    `network` is its name, for the sentences. Raises HarError where the module uses an operator that ONNX, or the
    exporter, does not have, or where what it does depends on the values of the clips.
    """
    import torch

    # The exporter logs a line a step at WARNING and above nothing that a user could act on.
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module,
                (example_BCTHW,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes={"clips_BCTHW": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise _in_words(error, network) from error
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    return proto


def _in_words(error: Exception, network: str) -> HarError:
    """Which operator or line it was, from the causes of what the exporter raised."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    told = "\n".join(str(cause) for cause in causes)
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", told) or re.search(
        r"Error when translating node .*target=torch\.ops\.(\w+\.\w+)", told
    )
    if operator:
        return HarError(
            f"The network {network} uses the operator {operator[1]}, which cannot be exported to ONNX (opset {OPSET}): "
            "write it with other operators in har_assets/model/networks.py, or choose another network, and train again."
        )
    deepest = " ".join(str(causes[-1]).split())[:200]
    return HarError(
        f"The network {network} cannot be exported to ONNX ({type(causes[-1]).__name__}: {deepest}): its forward may "
        "not branch on values of the clips; write it without, or choose another network, and train again."
    )


def write_onnx(proto: onnx.ModelProto, spec: ModelSpec, provenance: Provenance, target: Path) -> Path:
    """Write a model with its spec and provenance as metadata, whatever its precision; returns `target`.

    Every ONNX file of har_assets is written here. The same `proto` gives the same bytes in any folder.
    `proto` is changed.
    """
    import onnx

    for item in [
        proto.graph,
        *proto.graph.node,
        *proto.graph.input,
        *proto.graph.output,
        *proto.graph.value_info,
        *proto.graph.initializer,
    ]:
        # Stack traces of the export, with the paths of this machine.
        del item.metadata_props[:]
    for function in proto.functions:
        for node in function.node:
            del node.metadata_props[:]
    onnx.helper.set_model_props(proto, to_metadata(spec, provenance))
    onnx.checker.check_model(proto, full_check=True)
    seal(proto)
    target.write_bytes(proto.SerializeToString(deterministic=True))
    return target


def read_onnx(path: Path) -> tuple[onnx.ModelProto, ModelSpec, Provenance]:
    """Read an ONNX file that `write_onnx` wrote: the graph, its spec and its provenance.

    Raises:
        ModelFileError: the file is missing, damaged or foreign.
    """
    proto = verify(path)
    spec, provenance = from_metadata({p.key: p.value for p in proto.metadata_props}, str(path))
    return proto, spec, provenance
