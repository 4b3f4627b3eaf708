"""The image's health check: whether the service in this container is ready.

Run by its path, without site-packages: every few seconds a new Python answers, and importing ours would keep it busy.
"""

import os
import re
import sys
from http.client import HTTPException

PORT = re.compile(r"CDDS_[A-Z_]+_HTTP_PORT")


def is_ready(port: int) -> bool:
    """Whether what listens on this port says so."""
    from http.client import HTTPConnection

    connection = HTTPConnection("127.0.0.1", port, timeout=4)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    # The image sets the port of every service, for only one of them runs here.
    ports = {int(value) for name, value in os.environ.items() if PORT.fullmatch(name)}
    sys.exit(not any(map(is_ready, sorted(ports))))
