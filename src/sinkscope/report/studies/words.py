"""Sentences on an experiment: what was run, and what it cannot show; from its numbers alone."""

from __future__ import annotations

from typing import Any

from sinkscope.report.text import number_of, visible

SIZES = {
    "smoke": "Smoke: minutes on a CPU",
    "small": "Small: one GPU",
    "paper": "Paper: the published size",
}
SINK_FROM = (
    "Sink from step: where a run's curve, measured as it was trained, has three points in a row "
    "with a sink rate (ε 0.3) above one half; median and range over the runs that come to it."
)
SIGNS = (
    "Difference: of the figure between the two, seed by seed, with its 95 % t interval (of "
    "shares cut off at 100 points). As published, or against: the interval is clear of zero; open: "
    "it is not."
)
AS_READ = (
    "As blocks read it: P0 at the inputs of the norms of attention and MLP, behind a force-sink "
    "mask where there is one; the largest over these inputs. The stream behind a block also holds "
    "what no block reads."
)
BEST_HEAD = (
    "Best head: whether the head that gives position zero most writes nothing with it (no-op) or "
    "hands one vector to every position (broadcast), and in how many runs."
)


def title(summary: dict[str, Any]) -> str:
    """The name of the experiment as a heading."""
    return visible(summary["experiment"]).replace("-", " ").capitalize()


def run_sentence(summary: dict[str, Any]) -> str:
    """Cells, seeds, windows, versions and device."""
    cells, seeds = len(summary["cells"]), _seeds(summary)
    held = summary["provenance"]
    said = f"{cells} cells, {seeds} trained models of {len(summary['cells']) * summary['seeds']}"
    if not seeds:
        return f"{said}."
    windows = "/".join(map(str, held["windows"]))
    return (
        f"{said}, measured on {windows} held-out windows each; on {', '.join(held['device'])}, "
        f"torch {', '.join(held['torch'])}, transformers {', '.join(held['transformers'])}; hash "
        f"of the text {held['text_sha256'][:12]}."
    )


def interval_sentence(summary: dict[str, Any]) -> str:
    """What the brackets are."""
    counts = {len(row["seeds"]) for row in summary["rows"]} - {0}
    if not counts:
        return ""
    if counts == {1}:
        return "One seed: no interval."
    said = "Mean over seeds, in brackets its 95 % t interval (shares cut off at 0 and 100 %)."
    return said + (" Where there is one seed there is no interval." if 1 in counts else "")


def limits(summary: dict[str, Any]) -> list[str]:
    """What this size cannot show."""
    said = [visible(summary["about"]["differs"])]
    trained = [one for one in summary["cells"] if one["parameters"]]
    if trained and summary["size"] != "paper":
        most = max(one["parameters"] for one in trained) / 1e6
        tokens = max(one["tokens"] for one in trained) / 1e6
        said.append(
            f"These models have at most {most:.2g} million parameters and saw {tokens:.3g} million "
            "tokens. Where they agree with the published numbers they do not confirm them at "
            "that size, and where they differ they do not refute them."
        )
    rates = [number_of(row["figures"]["sink_rate_0.3"]) for row in summary["rows"]]
    known = [rate for rate in rates if rate is not None]
    if known and max(known) < 0.01:
        said.append(
            "No cell has a sink to speak of here (all sink rates below 1 %), so this run says "
            "nothing on what makes a sink stronger or weaker."
        )
    if summary["seeds"] < 3:
        count = "One seed tells" if summary["seeds"] == 1 else f"{summary['seeds']} seeds tell"
        said.append(f"{count} little of how much a cell varies.")
    return said


def matched_sentences(summary: dict[str, Any]) -> list[str]:
    """How the sink-matched control is to be read; nothing where there is none."""
    held = summary["matched"]
    if not held:
        return []
    rate, loss = number_of(held["sink_rate"]), number_of(held["loss"])
    said = [
        f"The control is {visible(held['control'])}: sink rate {100 * (rate or 0):.1f} % (ε 0.3) "
        f"and loss {loss:.3f} at the end of training, measured as it was trained. Every other cell "
        "is read off its own curve where it last had the control's final sink rate, and where it "
        "last had the control's final loss, seed by seed; linear between two points of the curve. "
        "Shown is the difference to the control; “never meet”: in no seed does the curve reach it."
    ]
    if not rate:
        said.append("The control has no sink here, so there is none to match.")
    return said


def _seeds(summary: dict[str, Any]) -> int:
    runs = {(row["cell"], seed) for row in summary["rows"] for seed in row["seeds"]}
    return len(runs)
