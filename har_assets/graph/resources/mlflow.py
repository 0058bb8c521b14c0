"""MLflow as a Dagster resource: the run of one model lineage, see har_assets.tracking.run.

It holds no run by itself. Ops that were written for dagster-mlflow find its handle at `context.resources.mlflow`, with
a run of their own (har_assets.graph.resources.op_run), and its `mlflow_tracking` may be replaced by this resource
without a change of configuration.
"""

from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
from pydantic import PrivateAttr

from har_assets.errors import HarError
from har_assets.graph.resources.op_run import OpRun, OpTracking

ALIASES = {"experiment_name": "experiment", "mlflow_tracking_uri": "tracking_uri"}
"""Names of options in dagster-mlflow to the names here."""


class MlflowTracking(OpTracking, dg.ConfigurableResource, dg.IAttachDifferentObjectToOpContext):
    """Where runs are tracked. Relative sqlite addresses and folders are below the project folder."""

    stopped_by: ClassVar[tuple[type[BaseException], ...]] = (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)

    experiment_name: str | None = None
    """What dagster-mlflow calls `experiment`."""
    mlflow_tracking_uri: str | None = None
    """What dagster-mlflow calls `tracking_uri`."""
    _ops: OpRun | None = PrivateAttr(None)

    def __init__(self, **values: Any) -> None:
        for alias, name in ALIASES.items():
            value = values.pop(alias, None)
            if value is None:
                continue
            # Dagster hands on a default that a factory made as if it had been set.
            default = type(self).model_fields[name].get_default(call_default_factory=True)
            if values.get(name, default) not in (default, value):
                raise HarError(f"{name} and {alias} of mlflow differ and mean the same: leave {alias} out.")
            values[name] = value
        super().__init__(**values)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Have dagster-mlflow's handle ready for ops that use it."""
        self._ops = OpRun(self, context, Path.cwd())

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """End the run of ops."""
        if self._ops:
            self._ops.close()

    def get_object_to_set_on_execution_context(self) -> Any:
        """dagster-mlflow's handle, for `context.resources.mlflow`; a parameter of an op or asset is the resource."""
        return self._ops
