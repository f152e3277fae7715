"""The errors a user can meet, and what stands where a figure could not be measured."""

from __future__ import annotations

from dataclasses import dataclass


class SinkscopeError(Exception):
    """Base of all expected errors; `exit_code` is what the command line returns."""

    exit_code = 2


class InputError(SinkscopeError):
    """Bad usage or bad input (exit code 2)."""


class NotFinite(InputError):
    """Activations overflow. `block` is the first whose output is not finite, None: none is."""

    def __init__(self, sentence: str, block: int | None = None):
        super().__init__(sentence)
        self.block = block


class Unsupported(SinkscopeError):
    """The model cannot be read faithfully, so it is refused (exit code 3)."""

    exit_code = 3


class OutOfResources(SinkscopeError):
    """Memory or disk ran out (exit code 4)."""

    exit_code = 4


class TooLarge(OutOfResources):
    """A model asks for more memory than there is, found before it is loaded (exit code 4)."""


class Interrupted(SinkscopeError):
    """Stopped from the keyboard, with something worth saying about it (exit code 130)."""

    exit_code = 130


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust panicked (tokenizers, safetensors); that is no Exception."""
    return type(error).__name__ == "PanicException"


def is_interrupt(error: BaseException) -> bool:
    """Whether an error ends the program (Ctrl-C, exit) and says nothing of what it was about."""
    return not isinstance(error, Exception) and not is_panic(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, of whatever library, says that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return "allocate memory" in str(error) or "Unable to allocate" in str(error)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, as the end of a sentence, with those that it leads to."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    if isinstance(error, KeyError):
        lines = [str(error.args[0]) if " " in str(error.args[:1]) else f"there is no {lines[0]}"]
    whole = next((i for i, line in enumerate(lines) if not line.endswith((":", ","))), len(lines))
    return " ".join(lines[: whole + 1])[:400].rstrip(".") + "."


def reason(error: BaseException) -> str:
    """What is wrong with the one model that a task is about, as a sentence, whatever broke it."""
    if isinstance(error, SinkscopeError):
        return str(error)
    if is_out_of_memory(error):
        return "there is not enough memory for it."
    return f"it cannot be measured ({type(error).__name__}: {first_line(error)[:-1]})"


@dataclass(frozen=True)
class Missing:
    """Stands in for what was not measured; the reason is a clause without capital or full stop."""

    reason: str

    @property
    def sentence(self) -> str:
        """The reason as a sentence."""
        return f"{self.reason[0].upper()}{self.reason[1:]}."


NOT_ASKED = Missing("not asked for")
