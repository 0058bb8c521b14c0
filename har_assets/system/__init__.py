"""What the operating system gives: files, locks, processes, memory and GPUs. Knows nothing of videos."""
