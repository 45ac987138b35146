"""A helper process ends with the one that started it, however that one ended: SIGKILL tells nobody."""

from __future__ import annotations

import os
import threading
import time

EVERY_SECONDS = 0.5


def exit_with_parent(parent: int) -> None:
    """From now on, look whether process `parent` is still this one's parent, and leave at once when it is not."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(EVERY_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
