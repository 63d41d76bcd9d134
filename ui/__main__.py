"""`python -m ui --socket PATH --api URL`: the dashboard as the server's child. Its token is in SAESTUDIO_TOKEN."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

from .app import serve


def main() -> None:
    """Serve until standard input closes."""
    parser = argparse.ArgumentParser(prog="python -m ui", description="SAE Studio's dashboard.")
    parser.add_argument("--socket", type=Path, required=True, help="the Unix socket to serve on")
    parser.add_argument("--api", required=True, help="the URL of SAE Studio's server")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for loud in ("httpx", "tornado.access", "bokeh"):
        logging.getLogger(loud).setLevel(logging.WARNING)
    # It warns of accepting every origin, which is the gate's to check: nobody else reaches the socket.
    logging.getLogger("bokeh.server.util").setLevel(logging.ERROR)
    token = os.environ.pop("SAESTUDIO_TOKEN", None)
    serve(arguments.socket, arguments.api, token)


if __name__ == "__main__":
    main()
