"""The command line. Nothing here imports torch at the top: `--help` must stay fast.

`main` answers signals from its first line on, before anything else is imported.
"""

import sys

from sinkscope.cli.ending import INTERRUPTED, TERMINATED, answer, terminate, terminated


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    terminated.clear()
    before = answer(terminate)
    try:
        from sinkscope.cli.app import main as run

        run(arguments)
    except KeyboardInterrupt:  # during the import, or while the last error was explained
        print("sinkscope: interrupted.", file=sys.stderr)
        sys.exit(TERMINATED if terminated else INTERRUPTED)
    finally:
        answer(before)


__all__ = ["main"]
