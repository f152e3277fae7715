"""What the sections share: where results go, time, clocks, models."""

from __future__ import annotations

import gc
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

BROKEN = 3  # exit code of a child whose device no longer answers


def read(file: Path) -> dict:
    return json.loads(file.read_text())


def write(file: Path, results: dict) -> None:
    """Whole or not at all."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1, default=_plain))
    part.replace(file)


def _plain(value: Any) -> Any:
    """numpy's numbers as numbers, anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)


def versions() -> dict[str, Any]:
    import torch

    from sinkscope.observe.selfcheck import versions

    found: dict[str, Any] = dict(versions())
    if torch.cuda.is_available():
        p = torch.cuda.get_device_properties(0)
        found["gpu"] = {"name": p.name, "memory_mb": p.total_memory / 1e6}
        found["gpu"]["multiprocessors"] = p.multi_processor_count
        found["cudnn"] = torch.backends.cudnn.version()
    return found


class Run:
    """One section: `part` measures something and writes it down."""

    def __init__(self, file: Path, results: dict, section: str, options: Any) -> None:
        self.file, self.results, self.options = file, results, options
        self.device, self.tiny, self.seed = options.device, options.tiny, options.seed
        self.section = results["sections"][section]
        self.found: dict[str, Any] = self.section["found"]

    def left(self) -> float:
        """Seconds left to this section."""
        return self.section["end"] - time.time()

    def write(self) -> None:
        write(self.file, self.results)

    def part(self, key: str, measure: Callable[..., dict], *args: Any, needs: float = 0) -> None:
        """Measure and write down; once only, also where an earlier child broke in it.

        needs  seconds without which it is not begun
        """
        if key in self.found:
            return
        if self.left() < needs and not self.tiny:
            self.found[key] = {"skipped": f"{self.left():.0f} s were left"}
            self.write()
            return
        self.found[key] = {"error": "it broke or outran its time"}
        self.write()
        start = time.time()
        try:
            found = measure(*args)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next measure goes on
            found = {"error": f"{type(error).__name__}: {error}"[:1000]}
            found["traceback"] = traceback.format_exc().splitlines()[-14:]
        found["took_seconds"] = round(time.time() - start, 2)
        print(f"  {key}: {found.get('error', 'done')}, {found['took_seconds']} s", flush=True)
        self.found[key] = found
        self.write()
        tidy(self.device)


def tidy(device: str) -> None:
    """Free memory; leave the process where the device no longer answers."""
    gc.collect()
    if device == "cuda":
        import torch

        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError:
            os._exit(BROKEN)


def timed(call: Callable[[], Any], device: str) -> float:
    """Seconds until the device is done."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(calls: dict[str, Callable[[], Any]], rounds: int, device: str) -> dict[str, Any]:
    """Interleaved rounds after one to warm up: ms, ratio to the first, peak memory in MB."""
    import torch

    seconds: dict[str, list[float]] = {name: [] for name in calls}
    peaks = {}
    for call in calls.values():
        timed(call, device)
    for _ in range(rounds):
        for name, call in calls.items():
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds[name].append(timed(call, device))
            peaks[name] = torch.cuda.max_memory_allocated() / 1e6 if device == "cuda" else None
    first = next(iter(calls))
    found = {}
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, seconds[first])]
        found[name] = {
            "ms": statistics.median(values) * 1e3,
            "all_ms": [value * 1e3 for value in values],
            "ratio": statistics.median(ratios),
            "peak_mb": peaks[name],
        }
    return found


def wide_llama(run: Run, blocks: int, length: int):
    """A Llama of the 8B shape (vocabulary 32,000), bf16, random, made on the device."""
    from transformers import LlamaConfig

    return _wide(run, LlamaConfig, blocks, length)


def wide_gemma2(run: Run, blocks: int, length: int):
    """The same shape with capped scores, and a window of 4,096 tokens in every other block."""
    from transformers import Gemma2Config

    return _wide(run, Gemma2Config, blocks, length)


def _wide(run: Run, family: Any, blocks: int, length: int):
    import torch

    sizes = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
    sizes |= {"intermediate_size": 14336, "vocab_size": 32000, "head_dim": 128}
    if run.tiny:
        sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
        sizes |= {"intermediate_size": 96, "vocab_size": 128, "head_dim": 16}
    config = family(num_hidden_layers=blocks, max_position_embeddings=length, **sizes)
    return on_device(run, config, torch.bfloat16)


def on_device(run: Run, config: Any, dtype: Any):
    """A random model, made on the device, as a Subject that is not hashed."""
    import torch
    from transformers import AutoModelForCausalLM

    from sinkscope.subject.anatomy import find_anatomy
    from sinkscope.subject.load import Subject

    with torch.device(run.device):
        torch.manual_seed(run.seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    return Subject(model, None, find_anatomy(model), identity(model))


def identity(model: Any) -> dict[str, Any]:
    first = next(model.parameters())
    return {
        "id": "random",
        "revision": None,
        "architecture": type(model).__name__,
        "weights_sha256": "not hashed",
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(first.dtype).removeprefix("torch."),
        "device": str(first.device),
    }
