"""One run, or a few side by side, on a page."""
