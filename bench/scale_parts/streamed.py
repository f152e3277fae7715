"""A 70B shape, a few of its 80 blocks on disk, read block by block while it runs.

Three things are timed in turns for every block, with the files out of the page cache before each:
reading the block's bytes and doing nothing with them; computing with it when it is at hand; and the
streamed block, which is both. One-token sequences, since that is what P0's own stream takes. Then a
whole trace of a few random prompts: how often it reads a block, its time and its memory.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from scale_parts.common import floor, peak_gb

WIDTH, INNER, HEADS, KEY_HEADS, HEAD, VOCABULARY = 8192, 28672, 64, 8, 128, 128_256
BLOCKS = 80  # of the model whose shape it is
TOKENS = 16  # first tokens, each a sequence of its own
ROUNDS = 3
FEW = {"kind": "random", "n": 4, "length": 32}  # prompts of the trace
WAYS = 8  # through the blocks, of a trace with sink heads; random weights have none (docs/scale.md)
LEFT_FREE = 15e9  # bytes of the disk
BLOCK_BYTES = 2 * (2 * WIDTH * WIDTH + 2 * WIDTH * KEY_HEADS * HEAD + 3 * WIDTH * INNER)


def measure(options: Namespace) -> dict[str, Any]:
    """Write the folder, run it, delete it."""
    place = Path(tempfile.mkdtemp(prefix="sinkscope-70b-", dir=options.folder))
    try:
        room = shutil.disk_usage(place).free - LEFT_FREE - 2 * VOCABULARY * WIDTH
        blocks = min(options.blocks, int(room // BLOCK_BYTES))
        if blocks < 1:
            raise SystemExit(f"{place} has no room for a block of {BLOCK_BYTES / 1e9:.1f} GB")
        write(place, blocks)
        return run(place, blocks, options.dtype)
    finally:
        shutil.rmtree(place)


def write(folder: Path, blocks: int) -> None:
    """A Llama folder of random bfloat16 weights, a file for each block."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig

    LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER,
        num_hidden_layers=blocks, num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS,
        head_dim=HEAD, tie_word_embeddings=True, architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)

    ones, index = torch.ones(WIDTH, dtype=torch.bfloat16), {}

    def keep(tensors: dict[str, torch.Tensor], file: str) -> None:
        save_file(tensors, folder / file)
        index.update(dict.fromkeys(tensors, file))

    embedding = drawn(VOCABULARY, WIDTH)
    keep({"model.embed_tokens.weight": embedding, "model.norm.weight": ones}, "rest.safetensors")
    del embedding
    for i in range(blocks):
        at, own, keys = f"model.layers.{i}.", HEADS * HEAD, KEY_HEADS * HEAD
        keep(
            {
                f"{at}self_attn.q_proj.weight": drawn(own, WIDTH),
                f"{at}self_attn.k_proj.weight": drawn(keys, WIDTH),
                f"{at}self_attn.v_proj.weight": drawn(keys, WIDTH),
                f"{at}self_attn.o_proj.weight": drawn(WIDTH, own),
                f"{at}mlp.gate_proj.weight": drawn(INNER, WIDTH),
                f"{at}mlp.up_proj.weight": drawn(INNER, WIDTH),
                f"{at}mlp.down_proj.weight": drawn(WIDTH, INNER),
                f"{at}input_layernorm.weight": ones.clone(),
                f"{at}post_attention_layernorm.weight": ones,
            },
            f"block-{i}.safetensors",
        )
    content = {"metadata": {}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def run(folder: Path, blocks: int, dtype: str) -> dict[str, Any]:
    """Peak memory and times, in a process of its own: writing must not count."""
    import multiprocessing

    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(timed, (folder, blocks, dtype))


def timed(folder: Path, blocks: int, dtype: str) -> dict[str, Any]:
    """What `measure` returns."""
    import torch

    import sinkscope
    from sinkscope.observe.p0_stream import one_token_pass
    from sinkscope.subject.at_hand import reader_of
    from sinkscope.subject.load import load

    subject = load(folder, stream=True, dtype=dtype)
    stack = subject.anatomy.modules(subject.model)
    tokens = torch.arange(TOKENS)
    one_token_pass(subject, tokens[:1], list, stop=1)  # what is imported late
    reading, computing, streamed = [], [], []
    for _ in range(ROUNDS):
        out_of_cache(folder)
        reading.append(clock(lambda: [read(folder / f"block-{i}.safetensors")
                                      for i in range(blocks)]))  # fmt: skip
        out_of_cache(folder)
        reader = reader_of(stack)
        reader.release()
        streamed.append(clock(lambda: one_token_pass(subject, tokens, list)))
    whole = peak_gb()
    inputs = torch.randn(TOKENS, 1, WIDTH, dtype=subject.dtype)
    places = torch.zeros(1, 1, dtype=torch.long)
    rotary = subject.model.base_model.rotary_emb(inputs, places)
    for _ in range(ROUNDS + 1):  # the last block is held; the first time pages come in
        with torch.no_grad():
            computing.append(clock(lambda: stack[-1](inputs, position_embeddings=rotary)))
    a_block = {
        "reading": statistics.median(reading) / blocks,
        "computing": statistics.median(computing[1:]),
        "streamed": statistics.median(streamed) / blocks,
    }
    allowed = 1.2 * a_block["reading"] + a_block["computing"]
    out_of_cache(folder)
    reader.reads.clear()
    traced = clock(lambda: sinkscope.trace(subject, **FEW))
    most, reads = max(reader.reads.values()), sum(reader.reads.values())
    return {
        "blocks_on_disk": blocks,
        "gb_a_block": round(BLOCK_BYTES / 1e9, 2),
        "dtype": dtype,
        "seconds_a_block": {name: round(value, 2) for name, value in a_block.items()},
        "minutes_for_80_blocks": round(BLOCKS * a_block["streamed"] / 60, 1),
        "trace": {
            "prompts": FEW,
            "minutes": round(traced / 60, 1),
            "blocks_read": reads,
            "seconds_a_block_read": round(traced / reads, 2),
            "hours_for_80_blocks_read_8_times": round(BLOCKS * WAYS * traced / reads / 3600, 1),
            "peak_gb": round(peak_gb(), 2),
        },
        "floors": [
            floor("peak resident memory of passes, GB", whole, 6.0),
            floor("peak resident memory with a trace, GB", peak_gb(), 6.0),
            floor("most often that a trace reads a block", most, WAYS),
            floor("time of a block over 1.2 x reading it + arithmetic",
                  a_block["streamed"] / allowed, 1.0),
        ],
    }  # fmt: skip


def out_of_cache(folder: Path) -> None:
    """Have the system forget what it holds of these files."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path: Path) -> None:
    """Every byte of a file, to nowhere."""
    buffer = bytearray(1 << 24)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def clock(what: Any) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    what()
    return time.perf_counter() - began
