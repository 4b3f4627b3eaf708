"""The image's entry point: the service that is named, or the `cdds` command.

It runs in this process: as the first one of its container it would not hear a SIGTERM that it has no handler for, and
a stop that comes while Python still imports would be waited for in vain.
"""

import os
import runpy
import signal
import sys
from types import FrameType
from typing import Final

CHOSEN: Final = "CDDS_SERVICE"
"""The service of an image that was built for one."""


def main() -> None:
    """Become what the arguments say; exit code 2 when they say nothing that is known."""
    signal.signal(signal.SIGTERM, _end)
    from deploy.local.stack import SERVICES  # takes its time, in which a stop is to be heard already

    name, *arguments = sys.argv[1:] or [os.environ.get(CHOSEN, "")]
    if name in SERVICES and not arguments:
        module = f"services.{name}"
    elif name == "cdds":
        module = "cli"
    else:
        said = " ".join((name, *arguments)).strip() or "nothing"
        sys.stderr.write(f"say {', '.join(SERVICES)}, or cdds and a command, for what this container is; not {said}\n")
        sys.exit(2)
    sys.argv = [name, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
