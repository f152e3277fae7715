"""`report.html`: one offline page with everything a result holds.

The page asks the network for nothing. Its Content-Security-Policy allows exactly the inline
scripts written here, by their hashes, and no `eval`: Vega runs with its own expression interpreter.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape

from sinkscope.pace import span
from sinkscope.report import embed, frames, theme
from sinkscope.report.compare import comparison, run_name
from sinkscope.report.first import page_sections
from sinkscope.report.listing import Index
from sinkscope.report.parts import Maps, Part, Section, Table, Tables
from sinkscope.report.text import counted, visible
from sinkscope.result import Result
from sinkscope.schema import Made


@dataclass(frozen=True)
class Heading:
    """The top of a page: "about `subject`", and the facts in small print below."""

    about: str
    subject: str
    facts: str


def render_page(result: Result, *against: Result) -> str:
    """The whole report as one HTML string; `against` adds a comparison with other runs."""
    shown = page_sections(result)
    empty = not shown
    facts = _facts(result)
    if against:
        shown.insert(1, comparison(result, *against))  # behind the answer of this run
        facts += f" Beside {', '.join(map(run_name, against))}."
    shown.append(_settings(result))
    heading = Heading("Attention sinks in", visible(result.summary.model.id), facts)
    policies = frames.policies(result)
    version = result.summary.environment.sinkscope
    return render_sections(heading, shown, version, policies, empty=empty)


def framed(result: Result) -> str:
    """The report as a frame for a notebook: its style, names and scripts stay inside it."""
    return Markup(
        '<iframe title="sinkscope report" srcdoc="{}" sandbox="allow-scripts allow-downloads" '
        'style="width:100%;height:900px;border:0"></iframe>'
    ).format(render_page(result))


def _facts(result: Result) -> str:
    model, prompts = result.summary.model, result.summary.prompts
    environment = result.summary.environment
    revision = f", revision {visible(model.revision)}" if model.revision else ""
    weights = f", {visible(model.weights.label)} in GGUF" if model.weights else ""
    return (
        f"{visible(model.architecture)}, {model.parameters:,} parameters{weights}{revision}. "
        f"{counted(prompts.n, 'prompt')} of {prompts.length} tokens ({visible(prompts.kind)}), "
        f"{visible(environment.dtype)} on {visible(environment.device)}. "
        + " ".join(f"{line}." for line in frames.first_positions(result))
    )


def render_sections(
    heading: Heading,
    shown: list[Section],
    version: str,
    policies: Sequence[str] = (),
    empty: bool = False,
) -> str:
    """A page of sections. policies: BOS policies that stand side by side; empty: says so."""
    script = _asset("page.js")
    if any(isinstance(part, Index) for section in shown for part in section.parts):
        script += _asset("index.js")
    runtime = embed.vega_runtime()
    return _template().render(
        top=heading,
        version=version,
        empty=empty,
        policies=list(policies),
        label=frames.label,
        sections=shown,
        data=embed.script_json(_data(shown)),
        style=Markup(_style()),
        script=Markup(script),
        runtime=Markup(runtime),
        script_sources=" ".join(map(embed.script_hash, (runtime, script))),
    )


def _settings(result: Result) -> Section:
    parts: list[Part] = [Tables({"": _settings_tables(result)})]
    lead = "Everything these numbers depend on."
    model, used = result.summary.model, result.summary.environment
    said = f"sinkscope {visible(used.sinkscope)} on weights {model.weights_sha256[:12]}"
    made = result.summary.made
    said += f", {made.date[:10]}, in {span(made.seconds)}." if made else "."
    group = "Where the numbers come from"
    return Section("settings", "Settings and provenance", lead, parts, {"": said}, group)


def _settings_tables(result: Result) -> list[Table]:
    """Everything the numbers depend on, one table a group."""
    summary = result.summary
    groups: dict[str, Any] = {
        "Model": summary.model.model_dump(),
        "Prompts": summary.prompts.model_dump(),
        "Environment": summary.environment.model_dump(),
        "Asked for": summary.command,
        "Made": {} if summary.made is None else _made(summary.made),
    }
    for bos, scan in summary.scan.items():
        known: dict[str, Any] = {"null": scan.null, "residual_identity": scan.residual_identity}
        groups[f"Scan, {frames.label(bos)}"] = {"reader": scan.reader, **known}
    for bos, verified in summary.verify.items():
        groups[f"Cost of verify, {frames.label(bos)}"] = verified.cost
    return [settings_table(title, group) for title, group in groups.items() if group]


def settings_table(title: str, group: dict[str, Any]) -> Table:
    """Settings below each other; what is nested is joined by dots."""
    rows = [[visible(name), visible(value)] for name, value in _flat(group)]
    return Table(title, ["Setting", "Value"], rows)


def _made(made: Made) -> dict[str, Any]:
    """Date, duration, memory and the command that repeats it, as people read them."""
    memory = {"memory": made.peak_memory, "GPU memory": made.peak_gpu_memory}
    held = {f"peak {name}": f"{size / 1e9:.2f} GB" for name, size in memory.items() if size}
    return {"date": made.date, "duration": span(made.seconds), **held, "command": made.command}


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        items = [(f"{prefix}.{key}" if prefix else str(key), item) for key, item in value.items()]
        return [pair for key, item in items for pair in _flat(item, key)]
    if isinstance(value, (list, tuple)):
        value = ", ".join(_plain(item) for item in value)
    return [] if value is None or value == "" else [(prefix, _plain(value))]


def _plain(value: Any) -> str:
    """A setting as text: numbers in six figures, lists as their items."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(_plain, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _data(shown: list[Section]) -> dict[str, Any]:
    """Everything the page's script reads."""
    maps = {
        panel: packed
        for section in shown
        for part in section.parts
        if isinstance(part, Maps)
        for panel, packed in part.panels.items()
    }
    return {
        "figures": {
            figure.name: [
                {"label": v.label, "caption": v.caption, "specs": v.specs} for v in figure.variants
            ]
            for section in shown
            for figure in section.figures
        },
        "maps": maps,
        "labels": {bos: frames.label(bos) for bos in maps},
        "themes": {
            name: {"config": theme.vega_config(colours), "ramp": colours["ramp"]}
            for name, colours in (("light", theme.LIGHT), ("dark", theme.DARK))
        },
    }


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        finalize=_finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    return environment.from_string(_asset("template.html.j2"))


def _prose(text: Any) -> Markup:
    """Text made visible, in which the name of an option stays on one line."""
    kept = r'<span class="option">\g<0></span>'
    return Markup(re.sub(r"(?<![\w-])--[a-z][a-z-]*", kept, str(escape(visible(text)))))


def _finalize(value: Any) -> Any:
    """Whatever the template prints is either markup made here or a string made visible."""
    return value if isinstance(value, Markup) else visible(value)


def _style() -> str:
    """The stylesheet with the colours of both themes as custom properties."""
    light, dark = (_properties(colours) for colours in (theme.LIGHT, theme.DARK))
    return (
        _asset("style.css")
        + f":root{{color-scheme:light;{light}}}\n"
        + "@media (prefers-color-scheme:dark){:root:not([data-theme=light]){"
        + f"color-scheme:dark;{dark}}}}}\n"
        + f":root[data-theme=dark]{{color-scheme:dark;{dark}}}\n"
        + f"@media print{{:root:root{{color-scheme:light;{light}}}}}\n"
    )


def _properties(colours: dict[str, Any]) -> str:
    return "".join(f"--{name}:{value};" for name, value in theme.properties(colours).items())


def _asset(name: str) -> str:
    return files("sinkscope.report").joinpath(name).read_text(encoding="utf-8")
