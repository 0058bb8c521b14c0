"""Steps of a run on the nodes of a Ray cluster, by dagster-ray, where HAR_RAY names one.

    the run, where it was started        SurvivingExecutor > NodeExecutor
        a step ─── Ray job ───►          a node that has what the step needs: `needs` on the asset
            shard ─── Ray task ───►      any node with a free CPU (har_assets.sharding)
            training ─ Ray tasks ──►     the other nodes of a training over several (har_assets.ray_training)

dagster-ray submits each step as a job to Ray's job server. What is added here: a step whose node has died is tried
again on another one; a step that was stopped from outside ends; what no node of the cluster has is not waited for.

Nodes take keys and passwords from their own environment; nothing secret travels with a step, as whoever reaches the job
server reads what does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dagster as dg

from har_assets.errors import HarError
from har_assets.runs import surviving_executor

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

RAY_VARIABLE = "HAR_RAY"
"""Environment variable: address of the job server of a Ray cluster, `http://head:8265`. Empty: steps run here."""

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


def tasks_that_need(
    wanted: Mapping[str, Any], offered: Mapping[str, float], log: Callable[[str], None]
) -> dict[str, Any]:
    """Options of a Ray task for what `needs` says, without a GPU where the cluster offers none, which is logged."""
    options = {name: wanted[NEEDS_TAG][name] for name in ("num_cpus", "num_gpus") if name in wanted[NEEDS_TAG]}
    if "num_gpus" in options and not offered.get("GPU"):
        del options["num_gpus"]
        log("No node of the Ray cluster has a GPU: the shards go to CPUs.")
    return options


def cluster_address() -> str:
    """Address of the job server by HAR_RAY, empty where there is none; HarError for one that is no address."""
    address = os.environ.get(RAY_VARIABLE, "").strip()
    if address and urlsplit(address).scheme not in ("http", "https"):
        raise HarError(
            f"{RAY_VARIABLE} is {address!r}: set it to the address of the cluster's job server, http://HEAD:8265, or "
            "unset it to run steps on this machine."
        )
    return address


def chosen_executor() -> dg.ExecutorDefinition:
    """The executor of the deployment: a process a step here, or Ray jobs where HAR_RAY is set."""
    if cluster_address():
        from har_assets.ray_executor import surviving_ray_executor

        return surviving_ray_executor
    # Steps fork from a process that has imported the graph already: 0.1 s a step instead of 3.
    return surviving_executor.configured(
        {"start_method": {"forkserver": {"preload_modules": ["har_assets.definitions"]}}}
    )


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server; HarError where none answers or the extra `ray` is missing."""
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError:
        raise HarError(
            f"{RAY_VARIABLE} names a Ray cluster and Ray is not installed: `pip install 'har_assets[ray]'`, or unset "
            "it."
        ) from None
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise HarError(
            f"No Ray job server answers at {address} ({' '.join(str(error).split())[:200]}): start the cluster, `ray "
            f"start --head`, correct {RAY_VARIABLE}, or unset it to run steps on this machine."
        ) from error


def nodes_of(client: JobSubmissionClient) -> list[dict[str, float]]:
    """What each living node offers in all: `CPU`, `GPU`, `memory` in bytes, custom resources. Raises HarError."""
    answer = client._do_request("GET", "/api/v0/nodes?detail=1&limit=10000")
    if not answer.ok:
        raise HarError(
            f"Ray's job server does not list its nodes ({answer.status_code}): is the cluster still starting?"
        )
    nodes = answer.json()["data"]["result"]["result"]
    return [node["resources_total"] for node in nodes if node["state"] == "ALIVE"]
