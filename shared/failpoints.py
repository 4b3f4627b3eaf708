"""Named points at which a test may kill the process; inert unless `CDDS_FAILPOINT` names one.

A crash at a chosen line is the only honest test of "what if the process dies here", and the line can only be
chosen from inside. The points are listed in `docs/decisions/0005-failpoints.md`.
"""

import os
import signal
from pathlib import Path

_ARMED = os.environ.get("CDDS_FAILPOINT")
_MARKER = os.environ.get("CDDS_FAILPOINT_MARKER")


def reached(name: str) -> None:
    """Kill this process with SIGKILL if `CDDS_FAILPOINT` is `name`.

    With `CDDS_FAILPOINT_MARKER` the kill happens once: the file is made first, and its existence disarms the point,
    so that the restarted process gets past it.
    """
    if name != _ARMED:
        return
    if _MARKER is not None:
        marker = Path(_MARKER)
        if marker.exists():
            return
        marker.touch()
    os.kill(os.getpid(), signal.SIGKILL)
