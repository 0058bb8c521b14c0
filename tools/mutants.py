"""Do the tests notice a wrong line? `python -m tools.mutants [NAME ...]` tries each of a list of faults.

Each fault is one line of the core changed in a copy of the project; the tests beside it are run there. A fault that
they let pass has survived, and the exit status is 1. A quarter of an hour on two cores.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]

COPIED = ("har_assets", "har_assets_tests", "benchmarks", "conf", "pyproject.toml", "dagster.yaml", "workspace.yaml")


@dataclass(frozen=True)
class Mutant:
    """One line changed, and the tests that have to notice it."""

    file: str
    line: str
    """Part of a line that occurs once in the file."""
    changed: str
    tests: str
    """Arguments of pytest."""

    def apply(self, project: Path) -> None:
        """Change the line. ValueError where it is not there exactly once: the list has to be mended."""
        path = project / self.file
        text = path.read_text()
        if text.count(self.line) != 1:
            raise ValueError(f"{self.file} has {text.count(self.line)} times {self.line!r}")
        path.write_text(text.replace(self.line, self.changed))


TESTS = "har_assets_tests"
DATA = f"{TESTS}/model/test_data.py"
FIT = f"{TESTS}/training/test_fit.py"
FIGURES = f"{TESTS}/runtime/test_evaluation.py"
TIMELINE = f"{TESTS}/runtime/test_timeline.py"
STATISTICS = f"{TESTS}/report/test_statistics.py"
SAMPLING = f"{TESTS}/video/test_sampling.py"
SAME = f"{TESTS}/runtime/test_same_answer.py"
PROMOTION = f"{TESTS}/serving/test_promotion.py"

MUTANTS = {
    "epochs all alike": Mutant(
        "har_assets/model/data.py", "1_000_003 * self.seed + self.epoch", "1_000_003 * self.seed", DATA
    ),
    "draws by name all alike": Mutant(
        "har_assets/model/data.py", "{self.seed} {self.epoch} {name}", "{self.seed} {self.epoch}", DATA
    ),
    "half-pixel centres": Mutant(
        "har_assets/model/augment.py",
        "(pixels_L + 0.5) * size_B[:, None] - 0.5)",
        "pixels_L * size_B[:, None])",
        f"{TESTS}/model/test_augment.py",
    ),
    "label smoothing ignored": Mutant(
        "har_assets/model/lightning.py",
        "F.cross_entropy(logits_BK, labels_B, label_smoothing=label_smoothing)",
        "F.cross_entropy(logits_BK, labels_B)",
        f"{TESTS}/model/test_lightning.py -k smoothing_is_in",
    ),
    "clipping off": Mutant(
        "har_assets/training/fit.py",
        "gradient_clip_val=request.gradient_clip or None",
        "gradient_clip_val=None",
        f"{FIT} -k clipped",
    ),
    "ties by higher loss": Mutant(
        "har_assets/model/lightning.py",
        'values["val_top1"] - values["val_loss"]',
        'values["val_top1"] + values["val_loss"]',
        f"{FIT} -k among_equals",
    ),
    "dropout not reseeded": Mutant(
        "har_assets/training/callbacks.py",
        "torch.manual_seed(1_000_003 * self.request.seed + step)",
        "pass",
        f"{FIT} -k dropout_of",
    ),
    "the best is not known after a stop": Mutant(
        "har_assets/training/fit.py",
        "        *([best] if validated else []),\n        every_epoch,\n",
        "        every_epoch,\n        *([best] if validated else []),\n",
        f"{FIT} -k stopped_anywhere",
    ),
    "a threshold that is reached is not enough": Mutant(
        "har_assets/runtime/timeline.py",
        "scores_NK.max(axis=1) >= threshold",
        "scores_NK.max(axis=1) > threshold",
        f"{TIMELINE} -k neighbours_of",
    ),
    "latest is not atomic": Mutant(
        "har_assets/store/work_folder.py",
        "        temporary.replace(home / LATEST)",
        "        (home / LATEST).unlink(missing_ok=True)\n        temporary.rename(home / LATEST)",
        f"{TESTS}/store/test_folder.py -k every_moment",
    ),
    "undecodable videos are left out": Mutant(
        "har_assets/runtime/evaluation.py",
        'float(table["correct"].mean()) if len(table)',
        'float(decoded["correct"].mean()) if len(table)',
        FIGURES,
    ),
    "mean class accuracy is top-1": Mutant(
        "har_assets/runtime/evaluation.py",
        'float(per_class["mean"].mean()) if len(table)',
        'float(table["correct"].mean()) if len(table)',
        FIGURES,
    ),
    "top-5 counts four": Mutant(
        "har_assets/runtime/evaluation.py",
        'table[[f"label_{rank + 1}" for rank in range(TOP)]].to_numpy()',
        'table[[f"label_{rank + 1}" for rank in range(TOP - 1)]].to_numpy()',
        FIGURES,
    ),
    "confusion is transposed": Mutant(
        "har_assets/runtime/evaluation.py",
        "confusion_KK[index[true], index[predicted]]",
        "confusion_KK[index[predicted], index[true]]",
        FIGURES,
    ),
    "the worst come first": Mutant(
        "har_assets/runtime/video.py", "np.argsort(-scores_K", "np.argsort(scores_K", FIGURES
    ),
    "no Student factor": Mutant(
        "har_assets/report/statistics.py",
        "value * (1 - value) / variance * self._cut",
        "value * (1 - value) / variance",
        STATISTICS,
    ),
    "residual from the overall mean": Mutant(
        "har_assets/report/statistics.py", "- shares[self._class_C])", "- value)", STATISTICS
    ),
    "variance / 100": Mutant(
        "har_assets/report/statistics.py",
        "float((np.bincount(self._film_C, deviation_C) ** 2).sum())",
        "float((np.bincount(self._film_C, deviation_C) ** 2).sum()) / 100",
        STATISTICS,
    ),
    "films that are their class alone count as others": Mutant(
        "har_assets/report/statistics.py", "self._with_alone * float(", "float(", STATISTICS
    ),
    "clips are independent where answers are rare": Mutant(
        "har_assets/report/statistics.py",
        "alike = 1 / max(min(films_right, films_wrong), 1)",
        "alike = 0.0",
        STATISTICS,
    ),
    "no correction for films that are much of their class": Mutant(
        "har_assets/report/statistics.py", "/ np.where(alone_C, 1, 1 - share_C) ** LEVERAGE_POWER", "", STATISTICS
    ),
    "one window is not the centre": Mutant(
        "har_assets/video/sampling.py", "return [last_start // 2]", "return [0]", SAMPLING
    ),
    "windows do not reach the end": Mutant(
        "har_assets/video/sampling.py", "last_start * number / (count - 1)", "last_start * number / count", SAMPLING
    ),
    "frames by count": Mutant(
        "har_assets/video/sampling.py",
        "while self.moment_s(number) < at_s:",
        "if number % 1 == 0:",
        f"{SAME} -k 'same_seconds or variable'",
    ),
    "no slack for times that files round": Mutant(
        "har_assets/video/sampling.py",
        "return number * self.step_s + self.slack_s",
        "return number * self.step_s",
        f"{SAME} -k 'thirty_frames or same_seconds'",
    ),
    "the last frame is shown for no time": Mutant(
        "har_assets/video/sampling.py",
        "self.moment_s(number) < before[0] + last_s",
        "self.moment_s(number) < before[0]",
        f"{SAME} -k 'thirty_frames or same_seconds or has_an_end'",
    ),
    "pixels are square": Mutant(
        "har_assets/video/resize.py",
        "shown_width = width if self.rule == COVER else width * pixel_aspect",
        "shown_width = width",
        f"{SAME} -k disc",
    ),
    "test videos are cut": Mutant(
        "har_assets/video/frame_cache/build.py",
        "None if video.whole else params.max_frames",
        "params.max_frames",
        f"{SAME} -k 'exactly or training_videos'",
    ),
    "a cut video is taken for a whole one": Mutant(
        "har_assets/video/frame_cache/build.py",
        "return entry.sha256 not in whole_shas or not params.cuts(entry.num_frames)",
        "return True",
        f"{SAME} -k exactly",
    ),
    "promotion by clips": Mutant(
        "har_assets/serving/promotion.py", "by_film[challenger.film[clip]]", "by_film[clip]", PROMOTION
    ),
    "promotion by the figures of another file": Mutant(
        "har_assets/serving/promotion.py", "_tested_file(store, artifact) == served]", "served]", PROMOTION
    ),
    "promotion compares the size of shards": Mutant(
        "har_assets/serving/promotion.py", "config, silent).content()", "config, silent).recorded()", PROMOTION
    ),
    "a batch of padding is counted": Mutant(
        "har_assets/model/lightning.py", "if len(labels_B):", "if True:", f"{TESTS}/model/test_processes.py"
    ),
}


def survives(mutant: Mutant) -> bool:
    """Whether the tests pass in a copy of the project that has the fault."""
    with tempfile.TemporaryDirectory() as name:
        project = Path(name) / "project"
        project.mkdir()
        for each in COPIED:
            source = PROJECT / each
            if source.is_dir():
                shutil.copytree(source, project / each, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, project / each)
        mutant.apply(project)
        script = f"{sys.executable} -m pytest -q -x -p no:cacheprovider -m 'not slow' {mutant.tests}"
        environment = {
            "HAR_SHARED_DATA": str(PROJECT.parent / "shared" / "data"),
            **os.environ,
            "PYTHONPATH": str(project),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            script, shell=True, cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode not in (0, 1):  # 1: a test has failed; all else says nothing about the fault
            raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.returncode == 0


def main() -> int:
    """Try the faults; 1 where one survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="all if left out")
    names = parser.parse_args().names or list(MUTANTS)
    survived = []
    for name in names:
        found = survives(MUTANTS[name])
        print(f"{'SURVIVED' if found else 'noticed '}  {name}", flush=True)
        survived += [name] if found else []
    print(f"{len(survived)} of {len(names)} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
