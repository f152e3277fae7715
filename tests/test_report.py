"""The report without a browser: what the page and the tables hold, and what they never let out."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from sinkscope.errors import InputError
from sinkscope.report import compare, embed, frames, theme
from sinkscope.report.causal import verdict_page
from sinkscope.report.export import export_figures
from sinkscope.report.page import render_page
from sinkscope.report.parts import Tables
from sinkscope.report.scan import charts, curves, depth, headline, tables, words
from sinkscope.report.scan import figures as scan_figures
from sinkscope.report.scan import page as scan_page
from sinkscope.report.table import print_tables, render_text
from sinkscope.report.text import percent, ranges, short, token_text, visible
from sinkscope.schema.base import Measured
from tests.report_fixture import HOSTILE, build_result

SECTIONS = (
    "verdict rates heads maps position-zero received massive reading elsewhere blocks settings"
)


@pytest.fixture(scope="module")
def result():
    return build_result()


@pytest.fixture(scope="module")
def page(result):
    return render_page(result)


def dataset(result, bos="with"):
    return frames.datasets(result)[bos]


def page_data(page: str) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))


# ---- the page ---------------------------------------------------------------------------------


def test_large_model_stays_under_three_megabytes():
    page = render_page(build_result(32, 32, 256, map_tokens=48))
    assert len(page.encode("utf-8")) < 3_000_000


def test_every_section_is_there_folded_under_what_it_comes_to(page):
    for name in SECTIONS.split():
        part = page.split(f'<section id="{name}">')[1].split("</summary>")[0]
        assert '<details class="part"' in part
        assert re.search(r'<span class="concluded">.*\w.*</span>', part)


def test_every_figure_has_a_spec_for_both_policies(page):
    figures = page_data(page)["figures"]
    drawn = set(re.findall(r'data-chart="([a-z-]+)"', page))
    assert drawn == set(figures)
    groups = (["NULLS", "RECEIVED", "NORM", "COSINE"], ["MASSIVE", "READING", "ELSEWHERE"])
    single = [getattr(scan_figures, name) for name in groups[0]]
    single += [one for name in groups[1] for one in getattr(scan_figures, name)]
    assert {plot.name for plot in single} | {"heat"} == drawn
    for variants in figures.values():
        assert variants
        for variant in variants:
            assert set(variant["specs"]) == {"with", "without"}
            assert variant["caption"]
    assert len(figures["heat"]) == len(charts.MEASURES)


def test_page_asks_for_nothing(page):
    own = page.replace(embed.vega_runtime(), "")
    targets = re.findall(r'(?:src|href|action|srcset)\s*=\s*"([^"]*)"', own)
    assert targets
    assert all(target.startswith(("#", "data:")) for target in targets)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(", own)


def test_policy_allows_exactly_the_scripts_of_the_page(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page).group(1)
    assert "default-src 'none'" in policy
    scripts = policy.split("script-src ")[1].split(";")[0].split()
    inline = re.findall(r"<script>(.*?)</script>", page, re.S)
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in inline]
    assert scripts == [f"'sha256-{digest}'" for digest in digests]
    assert "unsafe-eval" not in policy


def test_hostile_text_cannot_leave_its_element(page):
    page.encode("utf-8")  # no lone surrogate
    assert len(re.findall(r"<script\b", page, re.I)) == 3
    assert len(re.findall(r"</script", page, re.I)) == 3
    own = page.replace(embed.vega_runtime(), "")
    assert "<img" not in own
    assert "<b>" not in own
    assert "onerror=alert" in own  # shown, as text
    assert "\x1b" not in own
    assert "\u202e" not in own
    assert not re.search(r">\s*49\s*<", own)  # {{ 7 * 7 }} was not run by the template


def test_data_holds_tokens_exactly_and_no_angle_bracket(page):
    text = re.search(r'id="data">(.*?)</script>', page, re.S).group(1)
    assert not set("<>&\u2028\u2029") & set(text)
    tokens = page_data(page)["maps"]["with"]["tokens"][0]
    assert tokens[: len(HOSTILE)] == [token_text(token) for token in HOSTILE]


def test_minimal_result_is_shown_without_what_it_lacks():
    result = build_result(minimal=True, policies=("without",))
    page = render_page(result)
    for name in ("verdict", "rates", "heads", "received", "blocks", "settings"):
        assert f'<section id="{name}">' in page
    for name in ("maps", "position-zero", "massive", "reading", "compare"):
        assert f'<section id="{name}">' not in page
    measures = {variant["label"] for variant in page_data(page)["figures"]["heat"]}
    assert "Class of head" not in measures
    assert "Late share of P0" in measures
    text = render_text(result)
    assert "By block" in text
    assert "The residual stream was not read" in text
    assert "Rule met" not in text


def test_one_policy_needs_no_policy_headings(page):
    assert "With BOS" in page
    assert "Without BOS" in page
    single = render_page(build_result(policies=("with",)))
    assert 'class="one">' in single
    assert '<p class="policy">' not in single


def test_options_named_in_a_sentence_stay_whole_and_counts_are_no_plural_of_one():
    result = build_result(policies=("without",))
    result.summary.scan["without"].notes = ["Bring more <b>text</b> (--text), or --n 8."]
    result.summary.prompts.n = 1
    page = render_page(result)
    kept = '(<span class="option">--text</span>), or <span class="option">--n</span> 8.'
    assert f"Bring more &lt;b&gt;text&lt;/b&gt; {kept}" in page
    assert " 1 prompt of " in page


def test_result_without_a_scan_is_still_a_page():
    page = render_page(build_result(policies=()))
    assert "This result holds no findings." in page


# ---- charts and data --------------------------------------------------------------------------


def test_heat_map_keeps_every_block_and_leaves_unseen_heads_out(result):
    data = dataset(result)
    chart = charts.heads_chart(data)
    spec = chart.to_dict()
    layers, heads = data.sizes["layer"], data.sizes["head"]
    assert spec["encoding"]["x"]["scale"]["domain"] == list(range(layers))
    values = chart.data["values"]
    assert len(values) == (layers - 1) * heads  # the last block cannot see P0
    share = frames.late_share(data)
    for row in values:
        assert row["value"] == pytest.approx(share[row["block"], row["head"]], rel=1e-3)


def test_blocks_are_named_by_their_index_in_the_model(result):
    data = dataset(result).copy()
    data["block"] = ("layer", np.arange(data.sizes["layer"]) * 3)
    rows = charts.heads_chart(data, "entropy").data["values"]
    assert {row["block"] for row in rows} == set(range(0, 3 * data.sizes["layer"], 3))


def test_what_other_heads_do_beside_a_sink_at_position_zero_is_said():
    result = build_result()
    scan = result.summary.scan["with"]
    plain = words.where(scan, dataset(result))
    rest = {"positions": [], "tokens": []}
    scan.beside = [
        {"kind": "learned", "heads": 6, **rest},
        {"kind": "positions", "heads": 1, **rest, "positions": [3]},
    ]
    said = words.where(scan, dataset(result))
    assert said == (
        f"{plain} Beside them, 6 other heads sink on a learned logit, which is no position; one "
        "other head sinks at position 3."
    )


def test_no_heat_map_of_a_measure_that_a_scan_lacks():
    assert charts.heads_chart(dataset(build_result(minimal=True)), "learned_mass") is None


def test_no_empty_chart_where_no_token_points_along_the_sink_direction(result):
    data = dataset(result).copy()
    assert depth.secondary_chart(data) is not None
    data["secondary_share"] = 0 * data["secondary_share"]
    assert depth.secondary_chart(data) is None


def test_optional_charts_are_left_out_when_their_variables_are_missing():
    data = dataset(build_result(minimal=True))
    for draw in (depth.massive_chart, depth.value_chart, depth.qk_logit_chart, depth.rank_chart):
        assert draw(data) is None
    empty = dataset(build_result()).copy()
    empty["value_norm_ratio"] = empty["value_norm_ratio"] * np.nan
    assert depth.value_chart(empty) is None


def test_received_curve_keeps_a_single_late_sink():
    curve = np.full(500, 0.001)
    curve[0], curve[377] = 0.9, 0.5
    starts, values = curves.binned(curve)
    assert starts[0] == 0
    assert values[0] == 0.9
    assert max(values[1:]) == 0.5
    assert len(starts) <= curves.RECEIVED_POINTS


def test_uniform_null_by_key_is_the_mean_of_one_over_the_visible_keys():
    attention = np.tril(np.ones((7, 7))) / np.arange(1, 8)[:, None]
    seen = [attention[key:, key].mean() for key in range(7)]
    np.testing.assert_allclose(curves.uniform_by_key(7), seen)


def test_columns_are_packed_without_loss():
    table = [{"x": 1, "series": "a"}, {"x": 2.5, "series": "b"}, {"x": 3, "series": "a"}]
    packed = embed._columns(table)
    assert packed == {"x": [1, 2.5, 3], "series": {"texts": ["a", "b"], "index": [0, 1, 0]}}


def test_panels_side_by_side_share_their_scales(result):
    data = frames.datasets(result)
    figures = {f.name: f for section in scan_page.sections(result) for f in section.figures}
    for name in ("massive", "rank", "norm", "key-norm"):
        domains = [
            layer["encoding"]["y"]["scale"]["domain"]
            for spec in figures[name].variants[0].specs.values()
            for layer in spec.get("layer", [spec])
            if "y" in layer["encoding"]
        ]
        assert len(domains) >= 2
        assert all(domain == domains[0] for domain in domains), name
    highest = max(float(one["norm_ratio"].max()) for one in data.values())
    lowest = min(float(np.median(one["norm_ratio"], 0).min()) for one in data.values())
    top = figures["norm"].variants[0].specs["with"]["layer"][1]["encoding"]["y"]["scale"]["domain"]
    assert top[1] == pytest.approx(highest, rel=1e-3)
    assert top[0] <= lowest + 1e-3


def test_maps_unpack_to_the_stored_attention(result):
    data = dataset(result)
    packed = embed.maps_of(data)
    stored = data["map"].values
    size = stored.shape[-1]
    assert len(packed["heads"]) == packed["total"] == stored.shape[1] * stored.shape[2]
    values = np.frombuffer(zlib.decompress(base64.b64decode(packed["bytes"])), np.uint8)
    triangles = values.reshape(stored.shape[0], len(packed["heads"]), size * (size + 1) // 2)
    query, key = np.tril_indices(size)
    for number, (block, head) in enumerate(packed["heads"]):
        np.testing.assert_array_equal(triangles[:, number], stored[:, block, head][:, query, key])


def test_maps_beyond_the_budget_keep_the_best_head_of_each_block(result):
    data = dataset(result)
    packed = embed.maps_of(data, budget=6000)
    layers = data.sizes["layer"]
    assert layers <= len(packed["heads"]) < packed["total"]
    assert len(packed["bytes"]) <= 6000
    best = np.nan_to_num(frames.late_share(data), nan=-1.0).argmax(1)
    assert packed["heads"][:layers] == [[block, int(head)] for block, head in enumerate(best)]


def test_ramps_rise_in_even_steps_of_lightness():
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]) ** (1 / 3)

    for colours, sign in ((theme.LIGHT, -1), (theme.DARK, 1)):
        steps = sign * np.diff([luminance(colour) for colour in colours["ramp"]])
        assert (steps > 0.03).all()
        assert steps.max() < 2 * steps.min()


# ---- words ------------------------------------------------------------------------------------


def verdict(result, bos="with"):
    return words.verdict_so_far(result.summary.scan[bos], dataset(result, bos))


def test_verdict_of_a_sink_names_its_null_its_blocks_and_its_limits(result):
    sentences = verdict(result)
    scan = result.summary.scan["with"]
    times = scan.late_share.value / scan.uniform_late_share
    assert sentences[0].startswith("Position zero is an attention sink:")
    assert f"{short(times)} times" in sentences[0]
    assert percent(scan.uniform_late_share) in sentences[0]
    text = " ".join(sentences)
    share = frames.late_share(dataset(result))
    count = len(words.sink_heads(dataset(result)))
    assert 0 < count <= int((np.nan_to_num(share) > 0.3).sum())
    assert f"{count} of {np.isfinite(share).sum()} heads" in text
    assert "blocks 2–4" in text
    assert "99th percentile of random keys" in text
    assert "untrained (3 seeds)" in text
    assert "In block 5 no late query can see position zero" in text
    assert "full " in text
    assert "sliding –" in text
    assert sentences[-1] == words.NOT_SHOWN


def test_verdict_without_a_sink():
    sentences = verdict(build_result(sinks=False))
    assert "no attention sink" in sentences[0] or "is no sink" in sentences[0]
    assert any(s.startswith("No head sinks at it (gives it more than 30") for s in sentences)
    assert any("not amplified in norm" in s for s in sentences)


def test_words_follow_the_decision_of_the_scan(result):
    scan = result.summary.scan["with"].model_copy()
    uniform = scan.uniform_late_share
    cases = {(True, 10): "sink", (True, 2): "few", (False, 2): "more", (False, 1.2): "none"}
    for (decided, times), expected in cases.items():
        scan.p0_sink = decided
        scan.late_share = scan.late_share.model_copy(update={"value": times * uniform})
        assert headline.strength(scan) == expected
    scan.late_share = scan.late_share.model_copy(update={"value": None})
    assert headline.strength(scan) == "unknown"


def test_no_sentence_claims_a_circuit_or_a_cause(result):
    for one in (result, build_result(sinks=False)):
        for bos in ("with", "without"):
            said = " ".join(verdict(one, bos)[:-1]).lower()
            assert not re.search(r"circuit|causes|because of|due to|makes the", said)


def test_share_above_random_keys_counts_late_attention(result):
    data = dataset(result)
    share = frames.late_share(data)
    expected = (share > data["random_target_p99"].values)[np.isfinite(share)].mean()
    assert words.heads_above_random(data) == pytest.approx(float(expected))


# ---- tables -----------------------------------------------------------------------------------


def test_text_holds_every_policy_and_every_eps_with_its_interval(result):
    text = render_text(result)
    assert "With BOS" in text
    assert "Without BOS" in text
    for scan in result.summary.scan.values():
        for rates in (scan.sink_rate, scan.sink_rate_after_2, *scan.sink_rate_by_type.values()):
            for rate in rates.values():
                shown = f"{percent(rate.value)}\u00a0({100 * rate.low:.1f}–{100 * rate.high:.1f})"
                assert shown in text
        for note in scan.notes:
            assert visible(note) in text


def test_block_table_has_a_row_a_block_with_null_and_stream(result):
    data = dataset(result)
    table = tables.blocks_table(data)
    assert len(table.rows) == data.sizes["layer"]
    row = dict(zip(table.columns, table.rows[3]))
    share = frames.late_share(data)[3]
    assert row["Block"] == "3"
    assert row["Late share"] == percent(share.mean())
    assert row["Highest"] == percent(share.max())
    assert row["Sink heads"] == str(sum(h[0] == 3 for h in words.sink_heads(data)))
    assert row["Uniform"] == percent(float(data["uniform_late"][3]))
    assert row["Learned"] == percent(float(data["learned_mass"][3].mean()))
    ratios = data["norm_ratio"].values[:, 3]
    assert row["P0 norm ×"] == short(float(np.exp(np.log(ratios).mean())))
    assert row["P0 cosine"] == f"{float(data['p0_cosine'][3]):.2f}"
    unseen = dict(zip(table.columns, table.rows[-1]))
    assert (unseen["Type"], unseen["Late share"], unseen["Highest"]) == ("sliding", "–", "–")


def test_type_and_reader_of_a_block_stand_there_where_they_differ(result):
    data = dataset(result)
    table = tables.blocks_table(data)
    assert table.columns[:3] == ["Block", "Type", "Late share"]
    assert table.numeric == {0, *range(2, len(table.columns))}
    alike = tables.blocks_table(data.isel(layer=[1, 2]))
    assert alike.columns[:2] == ["Block", "Late share"]
    assert alike.numeric == {*range(len(alike.columns))}


def test_nulls_are_never_averaged_across_kinds_of_attention(result):
    data = dataset(result).copy(deep=True)
    data["uniform_received"][-1] = data["uniform_late"][-1] = 0.5
    rows = {row[0]: row[2] for row in tables.nulls_table(result.summary.scan["with"], data).rows}
    assert rows["Uniform attention, sliding"] == percent(0.5)
    assert rows["Uniform attention, full"] == percent(float(data["uniform_received"][0]))
    assert rows["This model, sliding"] == percent(float(frames.alpha0(data)[-1].mean()))
    drawn = curves.ranked_chart(data).data["values"]
    lines = {row["value"] for row in drawn if row["series"] == "Uniform attention"}
    assert len(lines) == 2


def test_tables_without_rows_are_not_shown():
    result = build_result(policies=("with",))
    data = dataset(result).copy()
    data["p0_late"] = data["p0_late"] * np.nan
    result.data["scan/with"].dataset = data
    assert "Strongest heads" not in render_text(result)
    assert "Strongest heads" not in render_page(result)


def test_strongest_heads_come_first(result):
    data = dataset(result)
    rows = tables.heads_table(data, most=5).rows
    order = np.sort(np.nan_to_num(frames.late_share(data)).ravel())[::-1][:5]
    assert [row[2] for row in rows] == [percent(value) for value in order]


def test_terminal_gets_no_control_characters(result):
    text = render_text(result)
    hidden = [c for c in text if c != "\n" and (ord(c) < 32 or 0x7F <= ord(c) < 0xA0)]
    assert not hidden
    assert "\\x1b[2J\\x07" in text
    assert not set("\ud800\u202e\u2028") & set(text)


def test_rich_does_not_read_markup_in_model_text(result):
    summary = result.summary.model_copy(deep=True)
    summary.model.id = "[red]boo[/red] [/]"
    stream = io.StringIO()
    print_tables(type(result)(summary, result.data), Console(file=stream, width=200))
    assert "[red]boo[/red] [/]" in stream.getvalue()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a\nb\tc", "a↵b⇥c"),
        ("\x1b[0m\x07\x9b", "\\x1b[0m\\x07\\x9b"),
        ("\ud800", "\\ud800"),
        ("\u202eabc\u2028", "\\u202eabc\\u2028"),
        ("\U000e0041", "\\U000e0041"),
        ("ünïcødé 中", "ünïcødé 中"),
    ],
)
def test_visible(given, expected):
    assert visible(given) == expected


def test_numbers_for_people():
    assert percent(0.0341) == "3.4\u00a0%"
    assert percent(0.0001) == "<\u00a00.1\u00a0%"
    assert percent(None) == percent(float("nan")) == "–"
    assert [short(v) for v in (0, 12345.6, 42.42, 1.234, 0.00001)] == [
        "0",
        "12,346",
        "42.4",
        "1.23",
        "1.0e-05",
    ]
    assert ranges([4, 2, 3, 9]) == "2–4, 9"


# ---- comparison and export --------------------------------------------------------------------


def compared_tables(result, other):
    section = compare.comparison(result, other)
    shown = [part for part in section.parts if isinstance(part, Tables)]
    return [table for part in shown for found in part.panels.values() for table in found]


def test_comparison_shows_both_runs_and_their_difference(result):
    other = build_result(sinks=False, seed=5)
    page = render_page(result, other)
    assert re.findall('<section id="(.*?)">', page)[1] == "compare"  # behind the answer
    assert "difference" in page_data(page)["figures"]
    found = compared_tables(result, other)
    assert len(found) == 3
    assert found[2].title == "Differences beyond noise"
    row = next(row for row in found[0].rows if row[0] == "Late share of P0")
    ours = result.summary.scan["with"].late_share.value
    theirs = other.summary.scan["with"].late_share.value
    points = f"+{100 * (ours - theirs):.1f} points"
    assert row[1:] == [percent(ours), percent(theirs), points]


def test_difference_map_is_this_run_minus_the_other(result):
    other = build_result(seed=5)
    rows = charts.difference_chart(dataset(result), dataset(other)).data["values"]
    expected = frames.late_share(dataset(result)) - frames.late_share(dataset(other))
    assert len(rows) == np.isfinite(expected).sum()
    for row in rows:
        assert row["value"] == pytest.approx(expected[row["block"], row["head"]], abs=1e-4)


def test_a_run_does_not_differ_from_itself(result):
    found = compared_tables(result, result)
    assert found
    for table in found:
        assert table.rows
        assert {row[3].split()[0] for row in table.rows} <= {"0.0", "0"}


def test_one_head_of_a_kind_is_one():
    data = frames.datasets(build_result(policies=("without",)))["without"].copy(deep=True)
    data["head_class"].values[:] = 0
    data["head_class"].values[0, :4] = (2, 2, 3, 0)
    said = words.classes(data)
    assert said.startswith("Of 3 sink heads, 0 read next to nothing")
    assert "2 hand one vector to every position (broadcast) and 1 lies between the" in said


def test_comparison_of_unlike_models_has_no_head_map(result):
    other = build_result(layers=4, policies=("with",))
    section = compare.comparison(result, other)
    assert not section.figures
    assert "cannot be matched" in section.lead
    titles = [table.title for table in compared_tables(result, other)]
    assert titles == ["With BOS", "Differences beyond noise"]  # of the policy they share
    none = compare.comparison(build_result(policies=("without",)), build_result(policies=()))
    assert "share no BOS policy" in none.lead


def test_page_without_comparison_has_none(page):
    assert 'id="compare"' not in page


def test_figures_are_written_in_every_format(tmp_path):
    result = build_result(minimal=True, policies=("with",))
    written = export_figures(result, tmp_path / "figures")
    names = {path.name for path in written}
    assert {"heads-late-share-with.svg", "received-with.pdf", "ranked-with.png"} <= names
    starts = {".svg": b"<svg", ".pdf": b"%PDF", ".png": b"\x89PNG"}
    for path in written:
        assert path.read_bytes().startswith(starts[path.suffix])


def test_unknown_figure_format_is_refused(tmp_path, result):
    with pytest.raises(InputError, match="'gif' is not a format"):
        export_figures(result, tmp_path, formats=["gif"])
    assert not any(tmp_path.iterdir())


def test_a_multiple_of_the_sink_has_an_interval_in_its_own_unit():
    kept = SimpleNamespace(
        faithfulness=Measured(value=1.4, low=1.2, high=1.5),
        completeness=Measured(value=0.1, low=0.0, high=0.2),
    )
    said = verdict_page._keeps(kept).replace("\u00a0", " ")
    assert said == "keep 1.4 times (120.0–150.0 %); all else keeps 10.0 % (0.0–20.0) of the sink"
