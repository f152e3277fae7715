"""Passes that move through the blocks together, where blocks are read from disk one at a time.

Each task that is started has a thread of its own, of which one runs at any time: until it calls a
block that is not held, or asks for what another task has not found yet. Whatever waits for the
block that is held goes on first; then the lowest block that anything waits for is read. So passes
that do not need each other's results read each block once. Tasks that wait for the same block run
it in the order in which they were started.

A model whose weights are at hand gains nothing by that: there a task runs when its result is asked
for, in the thread that asks.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from sinkscope.observe.registry import TASK, attention_of, configurations
from sinkscope.subject.at_hand import reader_of
from sinkscope.subject.load import Subject
from sinkscope.subject.streamed import BlockReader

Later = Callable[[], Any]  # gives the result of a task


class _Cancelled(BaseException):
    """Nobody waits for this task any more."""


class _Task:
    """What it is to do, and what it waits for.

    at       the last block that it called; waits: whether for that block
    wants    the task whose result it waits for
    maker    the task that started it
    idle     nobody is left who would ask for it
    restore  routes attention as the task left it when it last stopped
    """

    def __init__(self, work: Callable[[], Any], maker: _Task | None = None) -> None:
        self.work, self.grad = work, torch.is_grad_enabled()
        self.maker, self.idle = maker, False
        self.go, self.done, self.dropped = threading.Semaphore(0), False, False
        self.thread: threading.Thread | None = None
        self.at, self.waits = -1, False
        self.wants: _Task | None = None
        self.value: Any = None
        self.error: BaseException | None = None
        self.restore: Callable[[], None] | None = None


@contextmanager
def together(subject: Subject) -> Iterator[Callable[..., Later]]:
    """Gives `start(function, *arguments)`, which returns a function that gives the result.

    What nobody has asked for by the end is cancelled, and cannot be asked for any more. Within
    another `together` of the same model, tasks join those of the other and live as long; but what
    nobody has asked for by their own end does not go on unless somebody does after all.
    """
    reader = reader_of(subject.anatomy.modules(subject.model))
    if reader is None:
        yield lambda work, *args: functools.cache(functools.partial(work, *args))
    elif reader.turn is not None:
        scheduler = reader.turn.__self__  # type: ignore[attr-defined]
        first = len(scheduler.tasks)
        try:
            yield scheduler.start
        finally:
            scheduler.leave(first)
    else:
        scheduler = _Scheduler(subject, reader)
        try:
            yield scheduler.start
        finally:
            scheduler.close()


def in_step(subject: Subject) -> bool:
    """Whether tasks that are started together run block by block, not one after the other."""
    return reader_of(subject.anatomy.modules(subject.model)) is not None


class _Scheduler:
    """Lets one task run at a time; the first is what the caller does beside those it starts."""

    def __init__(self, subject: Subject, reader: BlockReader) -> None:
        self.reader, self.cancelled, self.closing, self.closed = reader, False, False, False
        self.configs = configurations(subject.model)
        self.restore = attention_of(self.configs)
        self.caller = self.running = _Task(list)
        self.tasks = [self.caller]
        self._token = TASK.set(self.caller)
        reader.turn = self.turn

    def start(self, work: Callable[..., Any], *args: Any) -> Later:
        """Have a task run as soon as whoever runs now waits for something."""
        task = _Task(functools.partial(work, *args), self.running)
        self.tasks.append(task)
        return functools.partial(self._result, task)

    def turn(self, block: int) -> None:
        """Wait for the turn of this block; called before it is read."""
        task = self.running
        if task.at == block == self.reader.resident:
            return
        task.at, task.waits = block, True
        self._hand_on()
        if self.reader.resident == block:  # another task may have asked for its gradients
            self.reader.stack[block].requires_grad_(False)

    def leave(self, first: int) -> None:
        """Let those that whoever runs has started since, and nobody waits for, stay where they are.

        first  how many tasks there were then
        """
        wanted = [task.wants for task in self.tasks]
        for task in self.tasks[first:]:
            task.idle = task.maker is self.running and not task.done and task not in wanted

    def close(self) -> None:
        """Cancel what is left, and leave the model as it was."""
        self.cancelled = self.closing = True
        for task in self.tasks:
            if task.thread is not None:
                if not task.done:
                    self._resume(task)
                task.thread.join()
        self.restore()
        self.reader.turn, self.closed = None, True
        TASK.reset(self._token)

    def _result(self, task: _Task) -> Any:
        if self.closed and (not task.done or task.dropped):
            raise RuntimeError("this pass was cancelled: it was asked for too late")
        if not task.done:
            self.running.wants, task.idle = task, False
            self._hand_on()
        if task.error is not None:
            raise task.error
        return task.value

    def _hand_on(self) -> None:
        """Let the next task run, and come back when it is this one's turn again."""
        task = self.running
        if self.closing:
            raise _Cancelled
        then = self._next()
        if then is not task:
            task.restore = attention_of(self.configs)
            self._resume(then)
            if task.done:
                return
            self._pause(task)
        task.waits, task.wants = False, None
        if self.cancelled and task is not self.caller:
            raise _Cancelled

    def _next(self) -> _Task:
        if self.cancelled:
            return self.caller
        live = [task for task in self.tasks if not task.done and not _left(task)]
        waiting = []
        for task in live:
            if task.waits:
                waiting.append(task)
            elif task.wants is None or task.wants.done:
                return task
        held = [task for task in waiting if task.at == self.reader.resident]
        return held[0] if held else min(waiting, key=lambda task: task.at)

    def _resume(self, task: _Task) -> None:
        self.running = task
        (task.restore or self.restore)()
        if task.thread is None and task is not self.caller:
            task.thread = threading.Thread(target=self._run, args=(task,), daemon=True)
            task.thread.start()
        else:
            task.go.release()

    def _pause(self, task: _Task) -> None:
        try:
            task.go.acquire()
        except KeyboardInterrupt:  # in the caller's thread, while another runs until it waits
            self.cancelled, handed_over = True, False
            while not handed_over:
                with suppress(KeyboardInterrupt):
                    handed_over = task.go.acquire()
            raise

    def _run(self, task: _Task) -> None:
        TASK.set(task)
        torch.set_grad_enabled(task.grad)
        try:
            task.value = task.work()
        except _Cancelled:
            task.dropped = True
        except BaseException as error:  # noqa: BLE001  raised where the result is asked for
            task.error = error
        task.done = True
        if not self.closing:
            self._hand_on()


def _left(task: _Task | None) -> bool:
    """Whether nobody asks for a task, or for one on whose behalf it was started."""
    return task is not None and (task.idle or _left(task.maker))
