"""A worker process exits when its parent is gone, however the parent ended: SIGKILL cannot be handled."""

from __future__ import annotations

import os
import threading
import time

EVERY_SECONDS = 0.5


def exit_with_parent(parent: int) -> None:
    """Watch, in a thread, whether process `parent` is still the parent of this one; exit at once when it is not."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(EVERY_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
