"""Columns of the tables of predictions and of a benchmark of runtimes, apart from the code that needs NumPy."""

from har_assets.system.tables import Column

TOP = 5
"""Classes that a table of predictions has of each video."""

PREDICTION_COLUMNS = {
    "clip": Column("str", "Path below the video folder, `<class>/<file>`."),
    "label": Column("str", "True class."),
    "correct": Column("bool", "Whether the most likely class is the true one; False where no frame was decoded."),
    "runtime": Column("str", "Engine that gave the scores."),
    **{
        f"{what}_{rank}": column
        for rank in range(1, TOP + 1)
        for what, column in (
            ("label", Column("str", f"Class number {rank} by score; empty where there are fewer classes.")),
            ("score", Column("float", "Its mean score over the windows, 0 to 1.")),
        )
    },
}

BENCHMARK_COLUMNS = {
    "runtime": Column("str", "Name as `har predict --runtime` takes it."),
    "model": Column("str", "Name of the model file."),
    "engine": Column("str", "Engine that executes it, with its version."),
    "batch": Column("int?", "Clips a call."),
    "p50_ms": Column("float", "Median time of a call, milliseconds, from clips in memory to scores in memory."),
    "p95_ms": Column("float", "95th percentile of that time."),
    "p99_ms": Column("float", "99th percentile of it; fewer than 100 rounds give nearly the slowest one."),
    "clips_per_s": Column("float", "Batch size divided by the median time."),
    "videos_per_s": Column("float", "Videos a second from files to predictions, decoding included, all cores."),
    "start_up_s": Column("float", "Seconds from the start of the process to its first scores."),
    "memory_mb": Column("float", "Most memory that the process has held, 10^6 bytes."),
    "gpu_memory_mb": Column("float", "GPU memory that it took, 10^6 bytes; missing where it uses none."),
    "max_difference": Column("float", "Largest difference of a score from the plainest float32 runtime here."),
    "top1_agreement": Column("float", "Share of the clips with the same top-1 as that one."),
    "reason": Column("str", "Why there are no figures; empty where there are."),
    "cpu": Column("str", "Processor of the machine."),
    "cores": Column("int", "Cores that the process may use."),
    "vector_units": Column("str", "Vector units of the processor."),
    "gpu": Column("str", "GPU, or `none`."),
    "system": Column("str", "Operating system."),
    "python": Column("str", "Version of Python; those of the installed packages follow in columns of their own."),
}
