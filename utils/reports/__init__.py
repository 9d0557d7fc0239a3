"""The report over many runs: which runs are put together, what is computed from them, and how it is shown."""
