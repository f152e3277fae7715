"""The errors a user can meet: each is one sentence with what is wrong and what to do."""


class SinkscopeError(Exception):
    """Base of all expected errors; `exit_code` is what the command line returns."""

    exit_code = 2


class InputError(SinkscopeError):
    """Bad usage or bad input (exit code 2)."""


class Unsupported(SinkscopeError):
    """The model cannot be read faithfully, so it is refused (exit code 3)."""

    exit_code = 3


class OutOfResources(SinkscopeError):
    """Memory or disk ran out (exit code 4)."""

    exit_code = 4


class Interrupted(SinkscopeError):
    """Stopped from the keyboard, with something worth saying about it (exit code 130)."""

    exit_code = 130
