"""Cost of the readers, as ratios to a plain forward pass in the same run.

    python bench/readers.py --json                 the table of the README, T = 4096
    python bench/readers.py --length 32768 --only forward,p0,all     long context

Every case runs in a process of its own, so that peak memory is its own; cases are interleaved and
the median of the rounds is reported. The rival `output_attentions` is transformers' eager attention
with every map kept; TransformerLens joins in where it is installed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

CASES = ("forward", "p0", "all", "output_attentions", "transformer_lens")
WIDTH, BLOCKS, HEADS, VOCABULARY = 512, 8, 8, 1024


def build(length: int):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=length,
    )
    return LlamaForCausalLM(config).eval()


def case(name: str, length: int, rounds: int) -> dict:
    """Seconds of each round and peak memory above what the loaded model holds, in MB."""
    import torch

    from sinkscope.observe.attention import observe, run_model
    from sinkscope.observe.parity import token_prompts
    from sinkscope.observe.reads import Want
    from sinkscope.subject.load import Subject

    model = build(length)
    subject = Subject.from_model(model)
    prompts = token_prompts(torch.randint(VOCABULARY, (1, length)))
    warm = token_prompts(prompts.input_ids[:, :64])

    def forward(batch):
        with torch.no_grad():
            run_model(subject, batch, logits=False)

    def with_maps(batch):
        with torch.no_grad():
            model.set_attn_implementation("eager")
            maps = model.model(input_ids=batch.input_ids, use_cache=False, output_attentions=True)
            return [m[..., 0].clone() for m in maps.attentions]

    def lens(batch):
        with torch.no_grad():
            return bridge.run_with_cache(batch.input_ids)

    runs = {
        "forward": forward,
        "p0": lambda batch: observe(subject, batch, Want(received=False), "lean"),
        "all": lambda batch: observe(subject, batch, Want(received=True), "lean"),
        "output_attentions": with_maps,
        "transformer_lens": lens,
    }
    if name == "transformer_lens":
        bridge = lens_model(model)
    runs[name](warm)
    before = resident()
    with peak_memory() as peak:
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            runs[name](prompts)
            seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "extra_mb": max(peak) - before, "threads": torch.get_num_threads()}


def lens_model(model):
    """The same weights behind TransformerLens' bridge."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    from sinkscope.subject.folder import bundled_model

    tokenizer = AutoTokenizer.from_pretrained(bundled_model())  # the bridge insists on one
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, hf_model=model, tokenizer=tokenizer)


def resident() -> float:
    """Resident memory of this process in MB."""
    import psutil

    return psutil.Process().memory_info().rss / 1e6


class peak_memory:
    """Samples resident memory every two milliseconds; the samples are the context's value."""

    def __enter__(self) -> list[float]:
        import threading

        self.samples, self.stop = [resident()], threading.Event()

        def watch():
            while not self.stop.wait(0.002):
                self.samples.append(resident())

        self.thread = threading.Thread(target=watch, daemon=True)
        self.thread.start()
        return self.samples

    def __exit__(self, *error) -> None:
        self.stop.set()
        self.thread.join()


def measure(names: list[str], length: int, rounds: int) -> dict:
    """Interleave the cases over the rounds, each in a fresh process."""
    runs: dict[str, list[dict]] = {name: [] for name in names}
    skipped = {}
    for _ in range(rounds):
        for name in names:
            if name in skipped:
                continue
            command = [sys.executable, __file__, "--case", name, "--length", str(length)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                skipped[name] = (done.stderr.strip().splitlines() or ["failed"])[-1]
                continue
            runs[name].append(json.loads(done.stdout))
    return {
        "length": length,
        "rounds": rounds,
        "blocks": BLOCKS,
        "width": WIDTH,
        "heads": HEADS,
        "dtype": "float32",
        "device": "cpu",
        "cases": table(runs),
        "skipped": skipped,
    }


def table(runs: dict[str, list[dict]]) -> dict:
    base = runs.get("forward")
    rows = {}
    for name, results in runs.items():
        if not results:
            continue
        seconds = statistics.median(min(r["seconds"]) for r in results)
        rows[name] = {
            "seconds": round(seconds, 3),
            "extra_mb": round(statistics.median(r["extra_mb"] for r in results), 1),
            "threads": results[0]["threads"],
        }
        if base:
            plain = [min(r["seconds"]) for r in base]
            ratios = [min(r["seconds"]) / p for r, p in zip(results, plain, strict=False)]
            rows[name]["ratio_to_forward"] = round(statistics.median(ratios), 3)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        repeats = 2 if options.length <= 8192 else 1
        print(json.dumps(case(options.case, options.length, repeats)))
        return
    result = measure(options.only.split(","), options.length, options.rounds)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"T = {options.length}, {BLOCKS} blocks of width {WIDTH}, fp32 on the CPU")
    for name, row in result["cases"].items():
        print(
            f"{name:18} {row['seconds']:8.2f} s   {row.get('ratio_to_forward', '')!s:>6} ×   "
            f"{row['extra_mb']:9.1f} MB above the loaded model"
        )
    for name, why in result["skipped"].items():
        print(f"{name:18} skipped: {why}")


if __name__ == "__main__":
    main()
