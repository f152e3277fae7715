"""The Hub is not asked for anything, for the time being."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def is_offline() -> bool:
    """Whether the environment forbids all requests: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextmanager
def hub_forbidden(forbidden: bool) -> Iterator[None]:
    """Have huggingface_hub, and all who go through it, refuse every request; False changes nothing.

    It reads HF_HUB_OFFLINE when it is imported, and its constant at every request.
    """
    if not forbidden:
        yield
        return
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
