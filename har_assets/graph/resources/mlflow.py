"""MLflow as a Dagster resource: the run of one model lineage, see har_assets.tracking.run.

dagster-mlflow's own resource opens an unrelated run for each materialization and leaves it RUNNING under
`dagster asset materialize`; this one holds no run by itself.
"""

from typing import ClassVar

import dagster as dg

from har_assets.tracking.run import Tracking


class MlflowTracking(Tracking, dg.ConfigurableResource):
    """Where runs are tracked. Relative sqlite addresses and folders are below the project folder."""

    stopped_by: ClassVar[tuple[type[BaseException], ...]] = (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)
