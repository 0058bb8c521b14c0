"""Evaluation in several processes: every number of clips gives the figures of one process."""

import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor

from har_assets.model.data import PADDING, Batch, EvaluationOrder
from har_assets.model.lightning import VideoActionModel, stage_metrics
from har_assets.model.spec import ModelSpec

BATCH = 2
MOST_PROCESSES = 4


class Clips:
    """Made clips, of which the batches of an order are taken."""

    def __init__(self, spec: ModelSpec, number: int) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (number, *spec.clip_shape_CTHW)
        self.clips_NCTHW = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        self.labels_N = torch.randint(0, spec.num_classes, (number,), generator=generator)

    def batches(self, number: int, rank: int, world_size: int) -> list[Batch]:
        """Those of one process, of the first so many clips."""
        order = EvaluationOrder(number, BATCH, rank=rank, world_size=world_size)
        return [self._batch(torch.from_numpy(picks.positions_B)) for picks in order]

    def _batch(self, positions_B: Tensor) -> Batch:
        padding_B = positions_B == PADDING
        labels_B = torch.where(padding_B, PADDING, self.labels_N[positions_B])
        clips_BCTHW = torch.where(padding_B[:, None, None, None, None], 0, self.clips_NCTHW[positions_B])
        return clips_BCTHW, labels_B, torch.zeros(len(positions_B), 0)


def made(spec: ModelSpec) -> tuple[VideoActionModel, Clips]:
    torch.manual_seed(0)
    return VideoActionModel.from_spec(spec).eval(), Clips(spec, 4 * BATCH * MOST_PROCESSES)


def counted(model: VideoActionModel, batches: list[Batch]) -> dict[str, float]:
    """The figures of the batches, gathered from all processes where there are several."""
    metrics = stage_metrics(model.spec.num_classes, "")
    with torch.inference_mode():
        for batch in batches:
            model.count(batch, metrics)
    return {name: float(value) for name, value in metrics.compute().items()}


@pytest.mark.parametrize("world_size", range(1, MOST_PROCESSES + 1))
def test_every_number_of_clips_up_to_four_batches_is_counted_as_by_one_process(
    tiny_spec: ModelSpec, world_size: int
) -> None:
    model, clips = made(tiny_spec)
    for number in range(1, 4 * BATCH * world_size + 1):
        one = counted(model, clips.batches(number, 0, 1))
        of_all = stage_metrics(tiny_spec.num_classes, "")
        with torch.inference_mode():
            for rank in range(world_size):
                batches = clips.batches(number, rank, world_size)
                assert len(batches) == len(clips.batches(number, 0, world_size))  # or one would wait for ever
                for batch in batches:
                    model.count(batch, of_all)
        assert {name: float(value) for name, value in of_all.compute().items()} == pytest.approx(one, abs=1e-5), number


PROCESSES = """
    import json, os, pickle, sys
    from pathlib import Path
    import torch
    from har_assets_tests.model.test_processes import counted, made

    folder, numbers = Path(sys.argv[1]), json.loads(sys.argv[2])
    spec = pickle.loads((folder / "spec").read_bytes())
    torch.set_num_threads(1)
    for world_size, counts in numbers:
        children = []
        for rank in range(world_size):
            if child := os.fork():
                children.append(child)
                continue
            store = torch.distributed.FileStore(str(folder / f"store{world_size}"), world_size)
            torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
            model, clips = made(spec)
            for number in counts:
                row = [number, counted(model, clips.batches(number, rank, world_size))]
                os.write(1, f"{json.dumps(row)}\\n".encode())
            torch.distributed.barrier()
            os._exit(0)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * world_size
"""


def test_processes_that_gather_their_figures_agree_with_one(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    """Real processes by gloo: none waits for another, also where some have padding alone."""
    numbers = {2: [1, 5, 13], 4: [1, 3, 9]}
    (tmp_path / "spec").write_bytes(pickle.dumps(tiny_spec))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROCESSES), str(tmp_path), json.dumps(list(numbers.items()))],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == sum(world_size * len(counts) for world_size, counts in numbers.items())
    model, clips = made(tiny_spec)
    for number, figures in rows:
        assert figures == pytest.approx(counted(model, clips.batches(number, 0, 1)), abs=1e-5)
