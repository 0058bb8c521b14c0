"""Resources that a step or a shard needs of a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from har_assets.system.files import Log

NEEDS_TAG = "dagster-ray/config"
"""Tag of an op under which dagster-ray looks for what it needs."""

PROJECT = "har_project"
"""Custom resource of the node with the project's git checkout, `ray start --resources '{"har_project": 1}'`: steps that
write data.dvc or read the folder of new videos go there. Without such a node they go anywhere."""


def needs(cpus: float = 1, *, gpus: float = 0, project: bool = False) -> dict[str, Any]:
    """`op_tags` of an asset that needs so many CPUs and GPUs of a node, and the `project` folder.

    A step goes without what no node of the cluster has: a GPU, or the project. With no CPU of its own it leaves all
    of a node to the tasks that it starts.
    """
    wanted: dict[str, Any] = {"num_cpus": cpus} if cpus else {"num_cpus": 0, "memory": 1 << 20}
    if gpus:
        wanted["num_gpus"] = gpus
    if project:
        wanted["resources"] = {PROJECT: 0.001}
    return {NEEDS_TAG: wanted}


def tasks_that_need(wanted: Mapping[str, Any], offered: Mapping[str, float], log: Log) -> dict[str, Any]:
    """Options of a Ray task for what `needs` says, without a GPU where the cluster offers none, which is logged."""
    options = {name: wanted[NEEDS_TAG][name] for name in ("num_cpus", "num_gpus") if name in wanted[NEEDS_TAG]}
    if "num_gpus" in options and not offered.get("GPU"):
        del options["num_gpus"]
        log("No node of the Ray cluster has a GPU: the shards go to CPUs.")
    return options
