"""Tools of the operating system: files, locks, processes, memory and GPUs. Knows nothing of videos."""
