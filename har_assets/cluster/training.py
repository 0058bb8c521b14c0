"""A training over several nodes of a Ray cluster, which finds the nodes and starts a torchrun on each.

    the step, a Ray job on node 0       its process, a Ray driver: python -m har_assets.cluster, this module
        torchrun, rank 0 ...            its child; its lines are relayed, its work folder is that of the step
        ◄── rendezvous: an address of node 0, a free port ──►
    Ray task on node 1, 2, ...          the inputs copied from the bucket, torchrun as the task's child

Node 0 is the one on which Ray has placed the step; the others are a placement group, one bundle a node, so that two
trainings cannot each hold half of the cluster. Placement group and tasks belong to this process: Ray ends them when it
dies in whatever way. A lost node costs the unfinished epoch: the training is started again with another one, from the
last whole epoch. A lost node 0 is the death of the step, which the executor tries again.

Ray is imported inside functions: the executor and the step, which never start a cluster, need some names only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from har_assets import settings
from har_assets.errors import HarError
from har_assets.model.recipe import TrainingOptions
from har_assets.store.opening import StoreLocation
from har_assets.system.processes import undisturbed
from har_assets.training.request import ERROR_FILE, STOPPED, SUMMARY_FILE, TrainingRequest

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.util.placement_group import PlacementGroup


TRAININGS: dict[str, tuple[str, ...]] = {
    "trained_checkpoint": (),
    "split_evaluation": ("changes", "trained_checkpoint"),
}
"""Steps that train, and where the training's options are in their configuration."""

NODE_DEATHS = 3
"""Times that a training is started again because it has lost a node."""

NODE_ID = "ray.io/node-id"
"""Label that Ray gives to every node."""

LOSS_S = 60.0
"""Seconds within which Ray knows that a node has died (`RAY_health_check_*`, half a minute by default): for so long a
node that does not say why a training failed may be the reason."""

END_S = 40.0
"""Seconds that torchrun gets to end its processes, for which it takes 30 at most."""

LEAVE_S = 10.0
"""Seconds that the other nodes get to leave when node 0 is done."""

CHECKPOINT = Path("checkpoints", "last.ckpt")

Report = Callable[[str], None]


# ------------------------------------------------------------------------------------------ before the step starts


def options_of(run_config: Mapping[str, Any], step: str) -> tuple[int, int, bool]:
    """`nodes`, `devices`, and whether the nodes are to be found, as a run's configuration has them for a step.

    1, 1 and False for steps that do not train, and for what is not written as a number.
    """
    if step not in TRAININGS:
        return 1, 1, False
    found: Any = run_config.get("ops", {}).get(step, {}).get("config", {})
    for name in TRAININGS[step]:
        found = found.get(name, {})
    nodes, devices = (TrainingOptions.find(found, name, 1) for name in ("nodes", "devices"))
    if not isinstance(nodes, int) or not isinstance(devices, int) or nodes < 1 or devices < 0:
        return 1, 1, False
    return nodes, devices, nodes > 1 and not TrainingOptions.find(found, "rendezvous", "")


def node_needs(nodes: int, devices: int, offered: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What a training takes of each of its nodes: a GPU a process where the cluster has any, and as many CPUs.

    Args:
        nodes: how many.
        devices: of each node; 0 takes all GPUs that so many nodes have.
        offered: what each node of the cluster has in all.
    """

    def of_the_last(resource: str) -> int:
        amounts = sorted((int(node.get(resource, 0)) for node in offered), reverse=True)
        return [*amounts, *[0] * nodes][nodes - 1]

    with_gpus = any(node.get("GPU") for node in offered)
    processes = devices or (max(1, of_the_last("GPU")) if with_gpus else 1)
    needs: dict[str, float] = {"CPU": max(1, min(processes, of_the_last("CPU")))}
    return {**needs, "GPU": processes} if with_gpus else needs


def amounts_in_words(needs: Mapping[str, float]) -> str:
    """`1 CPU and 4 GPUs`."""
    return " and ".join(
        f"{needs.get(name, 0):g} {name}{'' if needs.get(name, 0) == 1 else 's'}"
        for name in ("CPU", "GPU")
        if name == "CPU" or name in needs
    )


def shortage(request: TrainingRequest, offered: Mapping[str, Mapping[str, float]]) -> str:
    """Why a training has not got its nodes: what was wanted, what the cluster has, what to do. `offered`: by node."""
    needs = request.node_needs
    fitting = [name for name, node in offered.items() if all(node.get(r, 0) >= needs[r] for r in needs)]
    has = ", ".join(
        f"{name} with {amounts_in_words({resource: node.get(resource, 0) for resource in needs})}"
        for name, node in sorted(offered.items())
    )
    lacking = len(fitting) < request.nodes
    remedy = (
        "start more nodes, or choose fewer nodes or devices"
        if lacking
        else "others are at work on them, so run the same command later, or raise node_wait_s"
    )
    return (
        f"The training has waited {request.node_wait_s:g} s for {request.nodes} nodes with "
        f"{amounts_in_words(needs)} each, of which the Ray cluster has {len(fitting)} ({has or 'no nodes'}): {remedy}."
    )


# ------------------------------------------------------------------------------------------ on node 0


class NodeLostError(Exception):
    """A node has died under the training, or Ray's process on it."""


def train_on_nodes(request: TrainingRequest, report: Report) -> int:
    """Train on this node and on others of the cluster that the step is a job of; the exit status of the training.

    Raises:
        HarError: the cluster does not have the nodes, why the training failed on one of them, or NODE_DEATHS + 1 of
            them were lost.
        KeyboardInterrupt: SIGINT or SIGTERM came. Nothing of the training goes on then, as after any other end.
    """
    import ray

    if (Path(request.work) / SUMMARY_FILE).is_file():
        return 0  # all but published
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init("auto", configure_logging=False)
    except ConnectionError as error:
        raise HarError(f"The step's Ray cluster does not answer ({error}): run the same command again.") from error
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray has taken it
    try:
        for _ in range(NODE_DEATHS + 1):
            try:
                with reserved_nodes(request, report) as group:
                    return _train_together(request, group, report)
            except NodeLostError as error:
                report(f"{error} The training goes on after the last whole epoch, with another node.")
        raise HarError(
            f"Nodes were lost under the training {NODE_DEATHS + 1} times: look at them, memory first, then run the "
            "same command, which goes on after the last whole epoch."
        )
    except Exception:
        # What the process of this node has said is one reason of several; the cause is written by who catches this.
        (Path(request.work) / ERROR_FILE).unlink(missing_ok=True)
        raise
    finally:
        with undisturbed():
            ray.shutdown()


@contextlib.contextmanager
def reserved_nodes(request: TrainingRequest, report: Report) -> Iterator[PlacementGroup]:
    """All nodes but this one, a bundle each; given back at the end. HarError when they are not there in time."""
    import ray
    from ray.job_submission import JobSubmissionClient
    from ray.util.placement_group import placement_group, remove_placement_group

    # Of several nodes on one machine Ray would take the head for the one that this process is on.
    here = JobSubmissionClient(settings.read().ray).get_job_info(request.ray_job).driver_node_id
    count = request.nodes - 1
    group = placement_group(
        [dict(request.node_needs)] * count,
        strategy="STRICT_SPREAD",
        bundle_label_selector=[{NODE_ID: f"!{here}"}] * count,
    )
    try:
        deadline = time.monotonic() + request.node_wait_s
        if not group.wait(1):
            report(
                f"Waiting up to {request.node_wait_s:g} s for {count} more node{'s' if count > 1 else ''} with "
                f"{amounts_in_words(request.node_needs)}."
            )
        while not group.wait(1):
            if time.monotonic() > deadline:
                offered = {
                    f"{node['NodeManagerHostname']}/{node['NodeID'][:4]}": node["Resources"]
                    for node in ray.nodes()
                    if node["Alive"]
                }
                raise HarError(shortage(request, offered))
        yield group
    finally:
        with undisturbed():
            remove_placement_group(group)


def _train_together(request: TrainingRequest, group: PlacementGroup, report: Report) -> int:
    """One attempt on the nodes of a placement group; the exit status of the training.

    Raises HarError with the cause of a failure, NodeLostError where a node is gone.
    """
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    def on_each(function: Callable[..., Any]) -> list[Any]:
        return [
            ray.remote(
                max_retries=0,
                num_cpus=request.node_needs["CPU"],
                num_gpus=request.node_needs.get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, bundle),
            )(function)
            for bundle in range(request.nodes - 1)
        ]

    # Before any process waits for the others: a frame cache may take an hour.
    names = [_answer(task.remote(request.store, list(request.origins.values()))) for task in on_each(fetch)]
    report(f"Training on {request.nodes} nodes of the Ray cluster: {', '.join([socket.gethostname(), *names])}.")
    address = ray.util.get_node_ip_address()
    shared = request.model_copy(
        update={
            "devices": int(request.node_needs.get("GPU", 0)) or request.devices or 1,
            "rendezvous": f"{f'[{address}]' if ':' in address else address}:{_free_port()}",
        }
    )
    work = Path(request.work)
    checkpoint = ray.put((work / CHECKPOINT).read_bytes() if (work / CHECKPOINT).is_file() else b"")
    others = [
        task.remote(shared.model_copy(update={"node_rank": number}), checkpoint)
        for number, task in enumerate(on_each(train_here), 1)
    ]
    first = shared.model_copy(update={"node_rank": 0})
    child = _start(first.write(work / "node.json"), stdout=subprocess.PIPE, text=True)
    relay = threading.Thread(target=_relay, args=(child, report), daemon=True)
    relay.start()
    try:
        return _watch(child, others, work)
    finally:
        with undisturbed():
            for other in others:
                ray.cancel(other)
            _end(child)
            relay.join(5)


def _watch(child: subprocess.Popen[str], others: list[ObjectRef], work: Path) -> int:
    """Exit status of the process of node 0 when all has ended well or was stopped; else as `_train_together`."""
    import ray

    waiting = list(others)
    reasons: list[str] = []

    def look(seconds: float) -> None:
        """Take what ends within some seconds."""
        deadline = time.monotonic() + seconds
        while waiting and time.monotonic() < deadline:
            ended, waiting[:] = ray.wait(waiting, timeout=0.5)
            reasons.extend(filter(None, map(_answer, ended)))

    while child.poll() is None and not reasons:
        look(0.5)
        if not waiting:
            time.sleep(0.1)
    if child.poll() in (0, 130):
        ray.wait(others, num_returns=len(others), timeout=LEAVE_S)
        return int(child.returncode)
    # The others fail for want of it, or it fails for want of them: when all have ended one has said the cause.
    _end(child)
    look(LOSS_S)
    for other in waiting:
        ray.cancel(other)
    look(END_S)
    if waiting:
        raise NodeLostError("A node does not answer any more.")
    error_file = work / ERROR_FILE
    own = error_file.read_text() if error_file.is_file() else ""
    raise HarError(cause_of([own, *reasons]))


def cause_of(reasons: Sequence[str]) -> str:
    """The sentence that says most of those with which the nodes of one training ended: one that somebody wrote."""
    said = [reason for reason in reasons if reason and reason != STOPPED]
    written = [reason for reason in said if not reason.startswith("Training failed with ")]
    return (
        written or said or ["The training processes ended without a word: look at their output in the run's logs."]
    )[0]


def _answer(task: ObjectRef) -> str:
    """What a task returns. Raises NodeLostError where its node has died, HarError for a fault of its own."""
    import ray
    from ray.exceptions import RayError, RayTaskError, TaskCancelledError

    try:
        return str(ray.get(task))
    except TaskCancelledError:
        return STOPPED
    except RayTaskError as error:
        if isinstance(error.cause, HarError):
            raise error.cause from None
        raise
    except RayError as error:
        raise NodeLostError(f"A node was lost under the training ({str(error).splitlines()[0]}).") from error


def _relay(child: subprocess.Popen[str], report: Report) -> None:
    """Report what the first process of all prints: nothing else writes to standard output."""
    assert child.stdout is not None
    for line in child.stdout:
        report(line.rstrip("\n"))


def _free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


# ------------------------------------------------------------------------------------------ on every node


def _start(request_file: Path, **options: Any) -> subprocess.Popen[Any]:
    """The training process of this node, which ends with the one that calls this."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_PIPES")},
        settings.PARENT_PID: str(os.getpid()),
        "PYTHONUNBUFFERED": "1",  # lines are relayed when they are written
    }
    return subprocess.Popen(
        [sys.executable, "-m", "har_assets.training", str(request_file)], env=environment, **options
    )


def _end(child: subprocess.Popen[Any]) -> None:
    """Stop a training process in order, and when that takes too long by force."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(END_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


# ------------------------------------------------------------------------------------------ on the other nodes


def copied(store: StoreLocation, address: str) -> Path:
    """Folder with this node's copy of a version published in a store, made where it is missing. Raises HarError."""
    root, asset, _ = address.rsplit("/", 2)  # the root of the store, or of the one inside it
    for version in replace(store, root=root, inside="").open().versions(asset):
        if version.address == address:
            return version.folder
    raise HarError(f"{address} was removed while a training started on it: run the same command again.")


def fetch(store: StoreLocation, addresses: list[str]) -> str:
    """Copy these versions to this node; its name. Raises HarError."""
    for address in addresses:
        copied(store, address)
    return socket.gethostname()


def train_here(request: TrainingRequest, checkpoint: bytes) -> str:
    """Train as one of several nodes, from a checkpoint unless it is empty; why that failed, empty when it did not."""
    with request.store.open().staging("trained_checkpoint") as work:
        (work / CHECKPOINT.parent).mkdir()
        if checkpoint:
            (work / CHECKPOINT).write_bytes(checkpoint)
        own = for_this_node(request, work, partial(copied, request.store))
        child = _start(own.write(work / "request.json"))
        try:
            while child.poll() is None:
                time.sleep(0.2)
        finally:
            _end(child)
        error_file = work / ERROR_FILE
        if child.returncode == 0:
            return ""
        reason = error_file.read_text() if error_file.is_file() else ""
        return reason or (
            f"The training process of {socket.gethostname()} ended with {child.returncode} and no word of why "
            "(killed? out of memory?): look at its output in the run's logs; the same command goes on after the last "
            "whole epoch."
        )


def for_this_node(request: TrainingRequest, work: Path, copy: Callable[[str], Path]) -> TrainingRequest:
    """The request of node 0 with the paths of this node: its work folder, and its copies by their addresses."""
    folders = {folder: str(copy(address)) for folder, address in request.origins.items()}

    def here(path: str) -> str:
        for folder, own in folders.items():
            if path == folder or path.startswith(f"{folder}/"):
                return own + path.removeprefix(folder)
        return path

    return request.model_copy(
        update={
            "work": str(work),
            "frame_cache": here(request.frame_cache),
            "manifests": {role: here(path) for role, path in request.manifests.items()},
            "pretrained": here(request.pretrained),
            "origins": {},
        }
    )
