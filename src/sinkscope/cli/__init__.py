"""The command line. Nothing here imports torch at the top: `--help` must stay fast.

`main` answers a signal from its first line on, before anything else is imported: Ctrl-C and SIGTERM
both unwind the program, so that what is unfinished is removed; SIGTERM ends it with 143.
"""

import signal
import sys
from typing import Any

INTERRUPTED, TERMINATED = 130, 143
terminated: list[int] = []  # whether SIGTERM came


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    terminated.clear()
    before = _answer(_terminate)
    try:
        from sinkscope.cli.app import main as run

        run(arguments)
    except KeyboardInterrupt:  # during the import, or while the last error was explained
        print("sinkscope: interrupted.", file=sys.stderr)
        sys.exit(TERMINATED if terminated else INTERRUPTED)
    finally:
        _answer(before)


def _answer(handler: Any) -> Any:
    """Answer SIGTERM so; what answered it before. Only a main thread can."""
    try:
        return signal.signal(signal.SIGTERM, handler)
    except ValueError:
        return None


def _terminate(number: int, frame: Any) -> None:
    if not terminated:  # a second one must not break off the cleaning
        terminated.append(number)
        raise KeyboardInterrupt


__all__ = ["main"]
