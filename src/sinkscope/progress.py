"""What a command shows while it works: a bar, or where no terminal is, lines of text."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any, TypeVar

from sinkscope.pace import Pace, stages_of
from sinkscope.settings import VerifySettings
from sinkscope.torch_defaults import torch_defaults

Step = Callable[[str, int, int], None]
Command = TypeVar("Command", bound=Callable[..., Any])

showing: list[Pace] = []  # one display at a time: a command within another has none of its own
FIRST, EVERY = 5.0, 30.0  # seconds until the first line, and from one line to the next


@contextlib.contextmanager
def progress_bar(stages: Sequence[tuple[str, float]] = ()) -> Iterator[Step]:
    """A progress callback that shows how far the command is and how long it still takes.

    stages  as `pace.planned` gives them: then the time is that of the whole command
    """
    from rich.console import Console

    console = Console(stderr=True)
    with _bar(console, stages) if _moves(console) else _lines(Pace(stages)) as step:
        yield step


def shown(command: Command) -> Command:
    """The command with a bar of its own, in a terminal or a notebook, where it is given none.

    It computes as torch does by default, whatever the caller has set.
    """

    @functools.wraps(command)
    def run(*arguments: Any, **given: Any) -> Any:
        with torch_defaults():
            return begun(*arguments, **given)

    def begun(*arguments: Any, **given: Any) -> Any:
        if "progress" in given or showing:
            return command(*arguments, **given)
        from rich.console import Console

        console = Console(stderr=True)
        if not (console.is_terminal or console.is_jupyter):
            return command(*arguments, **given)
        with progress_bar(_stages(command.__name__, arguments, given)) as step:
            return command(*arguments, progress=step, **given)

    return run  # type: ignore[return-value]


def _moves(console: Any) -> bool:
    """Whether a bar can be drawn anew; a notebook needs widgets, and warns at each try without."""
    if console.is_jupyter:
        return find_spec("ipywidgets") is not None
    return bool(console.is_terminal and not console.is_dumb_terminal)


def _stages(name: str, arguments: tuple[Any, ...], given: dict[str, Any]) -> list:
    """What a command that is called so goes through."""
    settings = (one for one in (*arguments, given.get("settings")) if hasattr(one, "n"))
    asked = vars(next(settings, VerifySettings())) | given
    sources = arguments[0] if arguments else given.get("sources")
    runs = sources if name == "timeline" and isinstance(sources, (list, tuple)) else None
    return stages_of(name, asked, None if runs is None else len(runs))


@contextlib.contextmanager
def _showing(pace: Pace) -> Iterator[None]:
    showing.append(pace)
    try:
        yield
    finally:
        showing.remove(pace)


@contextlib.contextmanager
def _bar(console, stages: Sequence[tuple[str, float]]) -> Iterator[Step]:
    from rich.progress import BarColumn, Progress, ProgressColumn, Task
    from rich.text import Text

    pace = Pace(stages)

    class Said(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(str(pace))

    with _showing(pace), Progress(BarColumn(12), Said(), console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0)

        def step(label: str, done: int, total: int) -> None:
            pace.update(label, done, total)
            bar.update(task, completed=pace.fraction)

        yield step


@contextlib.contextmanager
def _lines(pace: Pace, first: float = FIRST, every: float = EVERY) -> Iterator[Step]:
    done = threading.Event()

    def tell() -> None:
        wait = first
        while not done.wait(wait):
            print(f"sinkscope: {pace}", file=sys.stderr, flush=True)
            wait = every if pace.left is not None else first

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        with _showing(pace):
            yield pace.update
    finally:
        done.set()
        teller.join()
