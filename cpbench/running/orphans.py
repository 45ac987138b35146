"""A worker process exits when its parent is gone, however the parent ended: SIGKILL cannot be handled."""

from __future__ import annotations

import os
import signal
import threading
import time

EVERY_SECONDS = 0.5
GRACE_SECONDS = 5.0  # for a run to record that it was stopped


def exit_with_parent(parent: int, records: bool = False) -> None:
    """Watch, in a thread, whether process `parent` is still the parent of this one; exit at once when it is not.

    records: send this process SIGTERM first, which it handles by recording that its run was stopped.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(EVERY_SECONDS)
        if records and hasattr(signal, "SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
