"""The verdict: what was proved or refuted, stage by stage, and what would change it."""

from __future__ import annotations

from sinkscope.causal.thresholds import COMPLETE, FAITHFUL, KEPT
from sinkscope.report.causal import tables as causal_tables
from sinkscope.report.causal.charts import areas_of
from sinkscope.report.causal.names import name_of, short_edit, with_names
from sinkscope.report.causal.reasons import why_not
from sinkscope.report.causal.stage_cards import stages_of
from sinkscope.report.circuit.words import AMPLIFIED
from sinkscope.report.parts import WEAK, Findings, Headline, Part, Section, Strip, Words
from sinkscope.report.parts import tables as tables_of
from sinkscope.report.phases import written_by
from sinkscope.report.text import (
    counted,
    interval_note,
    multiple,
    number_of,
    percent,
    percent_interval,
    percent_with_interval,
    typeset,
    visible,
)
from sinkscope.result import Result, StageSummary, VerifySummary
from sinkscope.schema.verify import PhaseNeed

SENTENCES = {
    "p0-circuit": "Position zero is a sink by a circuit",
    "bos-token": "The sink belongs to the BOS token: another token at position zero draws none",
    "position-embedding": "The sink belongs to the embedding of the first position id",
    "learned-sink": "Heads rest on a learned sink logit, which is no position",
    "query-bias": "The sink is driven by the query bias, and no state of position zero makes it",
    "rotary-distance": "Heads prefer the farthest key by rotary distance, whatever it holds",
    "other": "There is a sink, and it is made in another way than by a P0 circuit",
    "none": "There is no attention sink to explain",
    "undetermined": "What makes the sink is not settled by these tests",
}
VERBS = {1: "recognises it", 2: "amplifies it", 3: "reads it"}  # said of stages that are shown
NEEDS = {
    "needed": "Phase {phase} needs phase {other}",
    "in part": "Phase {phase} rests on phase {other} in part",
    "not needed": "Phase {phase} does not need phase {other}",
    "undetermined": "Whether phase {phase} needs phase {other} is undetermined",
    "not removed": "Whether phase {phase} needs phase {other} is not shown, since it stays",
}


def sections(result: Result) -> list[Section]:
    """The verdict section; none where nothing was tested."""
    verified = result.summary.verify
    if not verified:
        return []
    found = {bos: _findings(one) for bos, one in verified.items()}
    said = {bos: one.headline for bos, one in found.items()}
    parts: list[Part] = [
        Words(found),
        Strip({bos: stages_of(one) for bos, one in verified.items()}),
        *tables_of(verified, lambda one: [causal_tables.changes_table(one)], stacked=True),
    ]
    return [Section("verdict", "Verdict", "", parts, said, unfolded=True)]


def findings(result: Result, bos: str) -> Findings | None:
    """The verdict of one BOS policy, for a terminal."""
    verified = result.summary.verify.get(bos)
    if verified is None:
        return None
    found = _findings(verified)
    said = [found.headline, *(_because(verified) or _details(verified)[:1])]
    found.answers = [
        *(("Proved", sentence) for sentence in said),
        *(("Unless", with_names(one)) for one in map(visible, verified.what_would_change_it[:1])),
        *((WEAK, f"Missing: {visible(one)}.") for one in verified.missing),
    ]
    found.sentences += [
        typeset(why) for one in verified.stages if (why := _not_shown(one, verified))
    ]
    found.tables = [
        causal_tables.stages_table(verified),
        causal_tables.deciding_table(verified),
    ]
    changes = causal_tables.changes_table(verified)
    found.tables += [changes] if changes.rows else []
    return found


def _not_shown(stage: StageSummary, verified: VerifySummary) -> str:
    """Why a stage is not shown, in a sentence."""
    why = why_not(stage, verified.tests)
    said = {True: "", False: "is not shown by intervention", None: "is undetermined"}[stage.passed]
    return f"Stage {stage.stage}, {visible(stage.name)}, {said}: {why}." if why else ""


def _findings(verified: VerifySummary) -> Findings:
    return Findings(
        headline=f"{visible(verified.verdict)}: {_sentence(verified)}.",
        sentences=[
            *_because(verified),
            *_details(verified),
            *map(_need, verified.phase_needs),
            *(f"Missing: {visible(one)}." for one in verified.missing),
        ],
        keys=_keys(verified),
        notes=verified.notes,
    )


def _sentence(verified: VerifySummary) -> str:
    parts = [SENTENCES.get(part, "an unknown class") for part in verified.verdict.split("+")]
    if len(parts) > 1:
        return "Several things carry the sink. " + ". ".join(parts)
    text = parts[0]
    if verified.verdict != "p0-circuit":
        return text
    verbs = [VERBS[one.stage] for one in verified.stages if one.passed and one.stage in VERBS]
    if verbs:
        text += f" that {' and '.join(filter(None, (', '.join(verbs[:-1]), verbs[-1])))}"
    detail = verified.verdict_detail
    extra = [visible(detail[name]) for name in ("blocks",) if detail.get(name)]
    if detail.get("amplification") and any(
        one.stage == 2 and one.passed for one in verified.stages
    ):
        how = str(detail["amplification"])
        extra.append(f"amplified in {AMPLIFIED.get(how, visible(how))}")
    return f"{text} ({', '.join(extra)})" if extra else text


def _because(verified: VerifySummary) -> list[str]:
    because = verified.verdict_detail.get("because")
    return [visible(because)] if because else []


def _details(verified: VerifySummary) -> list[str]:
    """How large the circuit is."""
    size, tried = verified.circuit_size, verified.circuit_growth
    if not size.get("components") or size.get("share") is None:
        return []
    by_key = verified.circuit_curve.get("path") == "key"
    keeps = _keeps(verified) + (" in full passes" if by_key else "")
    said = [f"{counted(size['components'], 'unit')} ({_part(size['share'])}) {keeps}."]
    if size.get("traced") is not None and size["traced"] < size["components"]:
        said.append(f"{size['traced']} of them are traced along the sink direction.")
    said += _short_of(verified)
    faithful, needed = size.get("faithful"), size.get("needed")
    path = " through position zero's key" if by_key else ""
    if needed is None and tried:
        said.append(
            f"No set of up to {tried[-1]['components']} units is faithful and complete{path}."
        )
    elif needed is not None and needed != size["components"]:
        alone = ", all else held as it was" if by_key else ""
        said.append(
            f"It takes {counted(needed, 'unit')} to be both faithful and complete{path}{alone}."
        )
    if faithful is not None and faithful not in (needed, size["components"]):
        said.append(
            f"{counted(faithful, 'unit')} {'is' if faithful == 1 else 'are'} faithful{path}."
        )
    if areas_of(verified):
        said.append(f"{areas_of(verified)}{_small_sets(verified)}.")
    return said


def _short_of(verified: VerifySummary) -> list[str]:
    """Which bounds of the reported circuit its full passes do not meet; S4 asks for less."""
    kept, left = number_of(verified.faithfulness), number_of(verified.completeness)
    said = []
    if kept is not None and kept < FAITHFUL:
        passed = any(test.id == "S4" and test.passed for test in verified.tests)
        asks = f"; test S4 asks for {KEPT:.0%}" if passed else ""
        said.append(f"A faithful circuit keeps {FAITHFUL:.0%} or more{asks}.")
    if left is not None and left > COMPLETE:
        said.append(f"Beside a complete circuit all else keeps {COMPLETE:.0%} or less.")
    return [*map(typeset, said)]


def _small_sets(verified: VerifySummary) -> str:
    """What the smallest set of the curve keeps, where it is not faithful; the areas hide it."""
    tried = [one for one in verified.circuit_growth if one["components"]]
    kept = number_of(tried[0]["faithfulness"]) if tried else None
    if kept is None or kept >= FAITHFUL:
        return ""
    units = tried[0]["components"]
    keep = "keeps" if units == 1 else "keep"
    return (
        f"; small sets hardly weigh in them: {counted(units, 'unit')} alone {keep} {percent(kept)}"
    )


def _need(row: PhaseNeed) -> str:
    """Whether a phase of P0 needs the one before it, with what was measured."""
    by_share = row["share_left"] is not None
    left = row["share_left"] or row["norm_left"]
    own = row["removed_share_left"] or row["removed_norm_left"]
    kept = "its readers keep" if by_share else "it keeps"
    of = "of their attention through position zero's key" if by_share else "of its log norm"
    said = NEEDS[row["outcome"]].format(phase=row["phase"], other=row["removed"])
    writers = ", ".join(map(written_by, row["writers"]))
    without = f"without what writes phase {row['removed']} ({writers})"
    shown, held = map(percent_with_interval, (left, own))
    return f"{said}: {without} {kept} {shown} {of}, and phase {row['removed']} {held}."


def _part(share: float) -> str:
    """A part of all units, to two digits."""
    return f"{100 * share:.2g}\u00a0%"


def _keeps(verified: VerifySummary) -> str:
    """What the circuit alone and all else keep, with intervals."""
    said = []
    for what, kept in (("keep", verified.faithfulness), ("all else keeps", verified.completeness)):
        if kept is not None and kept.value is not None:
            interval = percent_interval(kept)
            held = multiple(kept.value)
            unit = "" if held.endswith("%") else "\u00a0%"  # beside a multiple it needs its own
            said.append(f"{what} {held}" + (f" ({interval}{unit})" if interval else ""))
    return "; ".join(said) + " of the sink"


def _keys(verified: VerifySummary) -> list[tuple[str, str, str]]:
    keys = []
    for value, what in (
        (verified.faithfulness, "of the sink is kept by the circuit alone (faithfulness)"),
        (verified.completeness, "is kept by everything but the circuit (completeness)"),
    ):
        if value is not None and value.value is not None:
            keys.append((multiple(value.value), what, interval_note(value)))
    return keys


def headline(result: Result, bos: str) -> Headline:
    """What two verifications are compared by."""
    verified = result.summary.verify[bos]
    return {
        "Verdict": ("word", verified.verdict),
        "Faithfulness": ("share", number_of(verified.faithfulness)),
        "Completeness": ("share", number_of(verified.completeness)),
        **{
            f"{name_of(test.id)}, sink without: {short_edit(test.edit, 0)}": (
                "change",
                number_of(test.sink_change),
            )
            for test in verified.tests
            if test.claim and test.kind == "necessity"
        },
    }
