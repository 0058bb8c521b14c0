"""Size of the evaluation report and the time that making it takes, on the sample and on nine real clips of HMDB51.

    python -m benchmarks.bench_report            four minutes on two cores

Three pipelines in new folders: the sample, the sample after six epochs (so that there are mistakes to show), and
hmdb51_mini.rar from HAR_SHARED_DATA where that is set. The report is made three times; the time is the median's, that
of the whole command and that of the asset in it (the rest is Dagster's start).
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from har_assets_tests.project import Project, log_of


def measure(name: str, folder: Path, config: dict[str, dict[str, Any]]) -> None:
    """Print a line for one pipeline."""
    project = Project.make(folder)
    done = project.materialize("+key:evaluation_report", config)
    if done.returncode:
        sys.exit(f"the pipeline failed: {log_of(done)[-3000:]}")
    commands, assets = [], []
    for _ in range(3):
        started = time.monotonic()
        done = project.materialize("evaluation_report", {"evaluation_report": {"force": True}})
        commands.append(time.monotonic() - started)
        if done.returncode:
            sys.exit(f"the report failed: {log_of(done)[-3000:]}")
        assets.append(project.latest("evaluation_report").record.seconds)
    report = project.latest("evaluation_report")
    page = report.file("evaluation_report.html")
    pictures = sum(report.file(each).stat().st_size for each in report.record.metadata["pictures"])
    print(
        f"{name}: page {page.stat().st_size / 1e6:.2f} MB, PNGs {pictures / 1e6:.2f} MB, made in "
        f"{statistics.median(assets):.1f} s ({statistics.median(commands):.1f} s with the command); "
        f"{page.read_text().count('<article')} videos shown; {report.record.headline}",
        flush=True,
    )
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=True)


def main() -> None:
    """Print a line a pipeline."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure("sample", folder / "sample", {})
        measure("sample, six epochs", folder / "few", {"trained_checkpoint": {"epochs": 6}})
        shared = Path(os.environ.get("HAR_SHARED_DATA", ""))
        if (shared / "hmdb51_mini.rar").is_file():
            source: dict[str, Any] = {
                "source": str(shared / "hmdb51_mini.rar"),
                "split_lists": str(shared / "test_train_splits.rar"),
            }
            measure(
                "hmdb51_mini",
                folder / "mini",
                {
                    "raw_archive": source,
                    "trained_checkpoint": {"epochs": 8, "batch_size": 4},
                },
            )


if __name__ == "__main__":
    main()
