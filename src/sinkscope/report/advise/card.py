"""A section for a model card, in Markdown."""

from __future__ import annotations

from sinkscope.report.advise.page import number_in_words
from sinkscope.report.text import NO_VALUE, typeset, visible
from sinkscope.result import Result


def model_card(result: Result) -> str:
    """The answers as Markdown: a table, then lines to paste; every cell escaped."""
    summary = result.summary
    lines = [
        "## Attention sink",
        "",
        f"Measured by sinkscope {summary.environment.sinkscope} on {summary.prompts.n} texts of "
        f"{summary.prompts.length} tokens ({_escaped(summary.prompts.source)}), weights "
        f"`{summary.model.weights_sha256[:12]}`, {summary.environment.dtype}.",
        "",
        "| question | answer | number, 95 % interval |",
        "|---|---|---|",
    ]
    for name, one in summary.advise.items():
        said = NO_VALUE
        if one.value is not None and one.value.value is not None:
            said = number_in_words(name, one)
        lines.append(f"| {one.question} | {_escaped(one.answer)} | {_escaped(said)} |")
    lines += [
        "",
        *(f"- {one.question} {_escaped(typeset(one.sentence))}" for one in summary.advise.values()),
        "",
    ]
    pasted = [line for one in summary.advise.values() for line in one.lines]
    for line in pasted:
        about = f"{line['tool']} ({line['version']}), {line.get('purpose', '')}:"
        lines += [about, "", f"    {visible(line['line'])}", ""]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Text that cannot end a cell or bring in HTML or Markdown of its own."""
    shown = visible(text)
    for character in "\\`*_[]<>|":
        shown = shown.replace(character, f"\\{character}")
    return shown
