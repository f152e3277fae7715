"""Lines that leave some linear maps out of quantisation, under the names that each tool uses."""

from __future__ import annotations

import re

from sinkscope.advice.lines import lines
from sinkscope.schema.advise import AdviceLine

# module inside a block -> its tensor in a GGUF file
GGUF = {
    "mlp.down_proj": "ffn_down",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_proj": "ffn_gate",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}


def lines_that_ignore(names: tuple[str, ...]) -> list[AdviceLine]:
    """A line for each tool that can leave these maps, given by their paths, alone."""
    escaped = [re.escape(name) for name in names]
    values = {
        "regexes": ", ".join(f'r"re:{name}$"' for name in escaped),
        "dynamic": ", ".join(f'r"-:{name}$": {{}}' for name in escaped),
        "names": ", ".join(f'"{name}"' for name in names),
    }
    tensors = [tensor for name in names if (tensor := _tensor_of(name))]
    if len(tensors) == len(names):
        values["tensors"] = " ".join(f'--tensor-type "{t}=q8_0"' for t in tensors)
    return lines("ignore", **values)


def _tensor_of(name: str) -> str:
    """The name of a map's weight in a GGUF file, as a pattern; empty where it is not known."""
    found = re.search(r"layers\.(\d+)\.(\w+\.\w+)$", name)
    if not found or found[2] not in GGUF:
        return ""
    return rf"blk\.{found[1]}\.{GGUF[found[2]]}"
