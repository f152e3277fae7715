"""How much memory a model asks for, estimated before any of it is taken."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError, TooLarge
from sinkscope.subject.header import blocks_named, elements
from sinkscope.subject.plan import laid_out, model_classes

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BLOCK = 50_000  # bytes of the objects of one block, beside its weights
MOST_BLOCKS = 20_000  # where no weights say how many there are
SMALL = 50_000_000  # parameters: below, a wrong estimate costs nothing
_BLOCKS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim")
_HIDDEN = ("intermediate_size", "n_inner", "ffn_dim")
_VOCABULARY = ("vocab_size",)
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


def refuse_too_large(
    config: dict[str, Any],
    tensors: dict[str, dict[str, Any]] | None,
    dtype: str | None,
    where: str,
    part: int | None = None,
) -> None:
    """Refuse what this machine has no memory for, and a configuration far beyond its weights.

    config   as plain values, with the defaults of its class or without
    tensors  what the weight files declare; None where that is not known
    part     how many first blocks must be there; None: all
    dtype    None: only a part is loaded, or not into this memory
    Raises TooLarge and InputError.
    """
    inner = config.get("text_config")
    config = config | inner if isinstance(inner, dict) else config
    if part is not None:
        config = config | {
            name: min(config[name], part) for name in _BLOCKS if isinstance(config.get(name), int)
        }
    blocks = _first(config, _BLOCKS)
    least = fewest_parameters(config)
    held = elements(tensors) if tensors else 0
    needed = (max(least, held) * BYTES[dtype] if dtype else 0) + blocks * BLOCK
    free = available()
    if free is not None and needed > free:
        raise TooLarge(
            f"{where} needs at least {needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB "
            "are free; a smaller --dtype or --device-map auto may help, and --stream holds one "
            "block of a folder at a time."
        )
    there = blocks_named(tensors) if tensors else MOST_BLOCKS
    if blocks > (4 * there + 16 if tensors else there):
        raise InputError(
            f"{where}: config.json asks for {blocks:,} blocks, and the weights hold {there:,}."
        )
    if tensors and least > max(2 * held, SMALL):
        raise InputError(
            f"{where} lacks weights: config.json asks for {least:,} parameters at the least, and "
            f"the weights hold {held:,}."
        )


def refuse_large_layout(
    config: Any, tensors: dict[str, dict[str, Any]] | None, dtype: str, where: str
) -> None:
    """The same for the model itself, laid out without memory: whatever entry makes it large.

    config   of transformers, in whose bounds `refuse_too_large` found nothing wrong
    tensors  what the weight files declare, as plain numbers; None where that is not known
    A model that cannot be laid out so is left to the loading itself.
    """
    try:
        layout = laid_out(model_classes(config)[1], config)
    except Exception:  # noqa: BLE001 - the loading tells what is wrong
        return
    buffers = [each for each in layout.buffers() if each.is_floating_point()]  # the rest are masks
    held = [*layout.parameters(), *buffers]
    asked = sum(each.numel() for each in held)
    free = available()
    if free is not None and asked * BYTES[dtype] > free:
        raise TooLarge(
            f"{where} needs {asked * BYTES[dtype] / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} "
            "GB are free; a smaller --dtype or --device-map auto may help."
        )
    if tensors and asked > 2 * elements(tensors) + SMALL // 10:
        largest = max(held, key=lambda one: one.numel())
        raise InputError(
            f"{where} lacks weights: config.json asks for {asked:,} numbers, and the weights hold "
            f"{elements(tensors):,}; the largest is of shape {list(largest.shape)}."
        )


def refuse_long_rows(rows: int, length: int, width: int, itemsize: int) -> None:
    """Refuse prompts whose ids, and the stream of one of them, do not fit the memory there is.

    width, itemsize  channels of the stream, bytes of a number in it; it is held twice at the least
    """
    needed = 8 * rows * length + 2 * length * width * itemsize
    free = available()
    if free is not None and needed > free:
        raise TooLarge(
            f"{rows} × {length:,} tokens need at least {needed / 1e9:,.1f} GB of memory, and "
            f"{free / 1e9:,.1f} GB are free; use a shorter --length or a smaller --n."
        )


def fewest_parameters(config: dict[str, Any]) -> int:
    """Fewer parameters than any model of this configuration has.

    width × (vocabulary + experts) + blocks × (width² + width × hidden)
    """
    width = _first(config, _WIDTH)
    block = width**2 + width * _first(config, _HIDDEN)
    rows = _first(config, _VOCABULARY) + _first(config, _EXPERTS)
    return rows * width + _first(config, _BLOCKS) * block


def available() -> int | None:
    """Bytes of memory that this process may still take; None where the system does not say."""
    found = [_of_machine(), _of_group(), _of_limit()]
    known = [each for each in found if each is not None]
    return max(0, min(known)) if known else None


def _first(config: dict[str, Any], names: tuple[str, ...]) -> int:
    values = (config.get(name) for name in names)
    return next((v for v in values if isinstance(v, int) and v > 0), 0)


def _of_machine() -> int | None:
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _of_group() -> int | None:
    """What a container's limit leaves; its page cache can be given back."""
    base = "/sys/fs/cgroup"
    limit, used = _text(f"{base}/memory.max"), _text(f"{base}/memory.current")
    if not limit.strip().isdigit() or not used.strip().isdigit():
        return None
    stat = dict(line.split() for line in _text(f"{base}/memory.stat").splitlines() if line)
    return int(limit) - int(used) + int(stat.get("inactive_file", 0))


def _of_limit() -> int | None:
    """What the limit on this process' address space leaves."""
    try:
        import resource
    except ImportError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _text("/proc/self/statm").split()
    if limit == resource.RLIM_INFINITY or not used:
        return None
    return limit - int(used[0]) * resource.getpagesize()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
