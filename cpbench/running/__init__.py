"""The runner: what a run needs, one task, one row, what it cost; and many runs."""
