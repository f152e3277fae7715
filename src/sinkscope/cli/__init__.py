"""The command line. Nothing here imports torch at the top: `--help` must stay fast."""

from sinkscope.cli.app import main

__all__ = ["main"]
