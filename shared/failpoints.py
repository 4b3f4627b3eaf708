"""Named points at which a test may kill or hold the process; inert unless the environment says otherwise.

A crash at a chosen line is the only honest test of "what if the process dies here", and the line can only be
chosen from inside. The points are listed in `docs/decisions/0005-failpoints.md`.
"""

import os
import signal
import time
from pathlib import Path
from typing import Final

_ARMED = os.environ.get("CDDS_FAILPOINT")
_MARKER = os.environ.get("CDDS_FAILPOINT_MARKER")
_HOLDS = os.environ.get("CDDS_FAILPOINT_HOLDS")
_LOOK_SECONDS: Final = 0.02


def reached(name: str) -> None:
    """Kill this process with SIGKILL if `CDDS_FAILPOINT` is `name`, or hold its thread.

    With `CDDS_FAILPOINT_MARKER` the kill happens once: the file is made first, and its existence disarms the point,
    so that the restarted process gets past it.

    `CDDS_FAILPOINT_HOLDS` is a folder. While it has a file called `name`, the thread that comes here waits, and
    `<name>.held` says that it does.
    """
    if _HOLDS is not None:
        _hold(Path(_HOLDS), name)
    if name != _ARMED:
        return
    if _MARKER is not None:
        marker = Path(_MARKER)
        if marker.exists():
            return
        marker.touch()
    os.kill(os.getpid(), signal.SIGKILL)


def _hold(folder: Path, name: str) -> None:
    while (folder / name).exists():
        (folder / f"{name}.held").touch()
        time.sleep(_LOOK_SECONDS)
