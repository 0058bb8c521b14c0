"""Import time of the graph against that of Dagster, in new interpreters, in turn.

python -m benchmarks.bench_import
"""

import statistics
import subprocess
import sys
import time

RUNS = 7


def seconds(statement: str) -> float:
    """Wall time of an interpreter that runs one statement."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print the medians and the median ratio."""
    seconds("from har_assets import defs")  # compiled files and disk cache
    statements = {"import har_assets": "import har_assets", "the graph": "from har_assets import defs"}
    for name, statement in statements.items():
        pairs = [(seconds(statement), seconds("import dagster")) for _ in range(RUNS)]
        ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{name}: {ours:.2f} s, import dagster {theirs:.2f} s, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
