"""How a signal ends the program: Ctrl-C and SIGTERM both unwind it, and nothing is left behind."""

from __future__ import annotations

import signal
from typing import Any

INTERRUPTED, TERMINATED = 130, 143
terminated: list[int] = []  # whether SIGTERM came


def answer(handler: Any) -> Any:
    """Answer SIGTERM so; what answered it before. Only a main thread can."""
    try:
        return signal.signal(signal.SIGTERM, handler)
    except ValueError:
        return None


def terminate(number: int, frame: Any) -> None:
    """End as Ctrl-C does; a second signal must not break off the cleaning."""
    if not terminated:
        terminated.append(number)
        raise KeyboardInterrupt
