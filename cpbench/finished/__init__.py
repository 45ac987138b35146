"""Uses of a finished run: sampling, export, scoring again, the classifier matrix."""
