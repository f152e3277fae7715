"""Names of checkpoints: which step, how many tokens, which stage of training.

Model makers name checkpoints in many ways (`step1000`, `stage1-step150-tokens1B`,
`step-001000-2BT`, `ckpt_356`, `global_step5000`, `checkpoint-500`, `128000`, `runs/step-0040/`).
Nothing is guessed silently: a name that says no position is no checkpoint, and a number that is
not a step (a running index, an epoch, a count of tokens) says so in its `unit`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sinkscope.errors import InputError

STEP, INDEX, EPOCH, TOKENS = "step", "index", "epoch", "tokens"
_POWERS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_NUMBER = r"(\d{1,15}(?:\.\d{1,15})?)"  # longer ones are no steps
_START = r"(?:^|(?<=[^a-z]))"  # a word begins: `timestep5` is no step
_END = r"(?![a-z0-9.]*\d|[a-z])"  # and ends: `step5abc` says something else

# Words before the number, most telling first. In LLM360 suites `ckpt_356` is a running index.
_WORDS = (
    (STEP, r"(?:global[-_]?step|train(?:ing)?[-_]?step|steps?)"),
    (STEP, r"(?:iteration|iter|it|updates?|ba|batch)"),
    (STEP, r"(?:checkpoint|chkpt)"),
    (INDEX, r"(?:ckpt|cp)"),
    (EPOCH, r"(?:epoch|ep)"),
)
_POSITIONS = [
    (unit, re.compile(rf"{_START}{word}[-_=. ]?{_NUMBER}([km]?){_END}")) for unit, word in _WORDS
]
_TOKENS = [
    re.compile(rf"{_START}tok(?:en)?s?[-_=]?{_NUMBER}([kmbt]?)(?:t|tok(?:en)?s?)?{_END}"),
    re.compile(rf"{_START}{_NUMBER}([kmbt])[-_]?tok(?:en)?s?{_END}"),
    re.compile(rf"{_START}(?<![\d.]){_NUMBER}([kmb])t{_END}"),
    # a bare amount counts only directly behind a step: elsewhere `7b` is the size of a model
    re.compile(rf"(?:step|iter)s?[-_]?\d+k?[-_]{_NUMBER}([mbt]){_END}"),
]
_TOKENS_ALONE = re.compile(r"(?:^train[-_]?(?=\d+[bt]$)|[-_](?=[\d.]+t$))(\d+(?:\.\d+)?)([bt])$")
_PLAIN = re.compile(r"^\d{1,15}$")
_NUMBERED = re.compile(
    rf"{_START}(?:stage|phase)[-_]?(\d+)(?:[-_](?:ingredient|part|branch)[-_]?(\d+))?"
)
# Stages that are named, in the order in which they come after pre-training.
_NAMED = (
    ("anneal", r"anneal(?:ed|ing)?|decay|cooldown"),
    ("mid-training", r"mid[-_]?train(?:ing)?"),
    ("long-context", r"lc|long[-_]?context"),
    ("sft", r"sft"),
    ("dpo", r"dpo|apo"),
    ("rl", r"rl|rlvr|grpo|ppo"),
)
_AFTER = 100  # named stages sort behind every numbered one


@dataclass(frozen=True)
class Revision:
    """Where in training a checkpoint lies, as its name says it.

    name    the whole name: branch, tag or folder
    step    the number on the axis of `unit`
    unit    step, index (a running number), epoch or tokens
    tokens  tokens seen, None where the name does not say
    stage   "" where the name has none, else such as "stage2" or "long-context"
    branch  parallel branch of a stage (the third ingredient of a soup is "3"), else ""
    order   sorts the stages
    """

    name: str
    step: int
    unit: str = STEP
    tokens: int | None = None
    stage: str = ""
    branch: str = ""
    order: int = 1

    @property
    def key(self) -> tuple:
        """Sort key: stage, branch, step, name."""
        return (self.order, self.branch, self.step, self.name)


def parse_revision(name: str, pattern: str | None = None) -> Revision | None:
    """Read the position of a checkpoint off its name; None where the name holds none.

    pattern  a regular expression of the user's own, with a group `step` (or its first group) and,
             if wanted, groups `tokens` and `stage`; then nothing else is tried
    Folders are read from the last part to the first: `run-7/step-0040/model` is step 40.
    """
    if pattern is not None:
        return _by_pattern(name, pattern)
    if name.startswith("refs/pr/"):
        return None  # a pull request's number is no step
    parts = [part for part in name.replace("\\", "/").split("/") if part]
    for part in reversed(parts):
        found = _parse_part(name, part.lower())
        if found is not None:
            return found
    return None


def parse_all(names: Iterable[str], pattern: str | None = None) -> tuple[list[Revision], list[str]]:
    """All names that are checkpoints, in order of training; and the names that are none.

    Raises InputError where steps are mixed with other units, since they share no axis. Epochs and
    indices beside steps (`last`, a stray `ckpt_1`) are left out with the names that are none.
    """
    found, other = [], []
    for name in names:
        revision = parse_revision(name, pattern)
        if revision is None:
            other.append(name)
        else:
            found.append(revision)
    units = {revision.unit for revision in found}
    if len(units) > 1:
        if STEP not in units:
            raise InputError(
                f"the checkpoints are counted in {' and '.join(sorted(units))}, which share no "
                "axis; choose some with --pattern."
            )
        other += [r.name for r in found if r.unit != STEP]
        found = [r for r in found if r.unit == STEP]
    return sorted(found, key=lambda revision: revision.key), other


def listed(names: Sequence[str], pattern: str | None = None) -> list[Revision]:
    """The user's own list, in the user's own order; a name without a number takes its place.

    Raises InputError for a name given twice.
    """
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise InputError(f"revision {twice!r} is given twice.")
    found = [parse_revision(name, pattern) for name in names]
    if any(one is None or one.unit != STEP for one in found):
        return [Revision(name, i, INDEX) for i, name in enumerate(names)]
    return [one for one in found if one is not None]


def one_line(revisions: list[Revision]) -> tuple[list[Revision], list[Revision]]:
    """What follows from one another, and what was left out: later branches of a stage.

    The ingredients of a soup start from one checkpoint and run side by side; only the first of
    each stage continues the line.
    """
    first: dict[int, str] = {}
    for revision in revisions:
        first.setdefault(revision.order, revision.branch)
    kept = [r for r in revisions if r.branch == first[r.order]]
    return kept, [r for r in revisions if r.branch != first[r.order]]


def axis(revisions: Sequence[Revision]) -> list[int]:
    """Steps on one axis: a stage that counts from zero again is put behind the one before it."""
    steps: list[int] = []
    offset, last, stage = 0, -1, None
    for revision in revisions:
        if stage is not None and (revision.order, revision.branch) != stage:
            offset = 0 if revision.step > last else last
        stage = (revision.order, revision.branch)
        last = revision.step + offset
        steps.append(last)
    return steps


def _by_pattern(name: str, pattern: str) -> Revision | None:
    try:
        match = re.search(pattern, name)
    except re.error as error:
        raise InputError(f"--pattern {pattern!r} is no regular expression ({error}).") from None
    if match is None:
        return None
    groups = match.groupdict()
    digits = groups.get("step") or (match.group(1) if match.re.groups else match.group(0))
    try:
        step = int(digits)
        if step >= 10**15:
            raise ValueError
    except (TypeError, ValueError):
        raise InputError(
            f"--pattern {pattern!r} finds {digits!r} in {name!r}, which is no number of a step; "
            "put the step into a group, such as (?P<step>\\d+)."
        ) from None
    tokens = re.fullmatch(rf"{_NUMBER}([kmbt]?)t?", (groups.get("tokens") or "").lower())
    stage = groups.get("stage") or ""
    order = int(stage) if stage.isdigit() else _stage(stage.lower())[2]
    return Revision(name, step, STEP, _amount(tokens) if tokens else None, stage, "", order)


def _parse_part(name: str, part: str) -> Revision | None:
    stage, branch, order = _stage(part)
    tokens = next((_amount(m) for p in _TOKENS if (m := p.search(part))), None)
    for unit, pattern in _POSITIONS:
        match = pattern.search(part)
        if match:
            return Revision(name, _amount(match), unit, tokens, stage, branch, order)
    if _PLAIN.match(part):
        return Revision(name, int(part), STEP)
    alone = _TOKENS_ALONE.search(part)
    if tokens is None and alone:
        tokens = _amount(alone)
    if tokens is not None:
        return Revision(name, tokens, TOKENS, tokens, stage, branch, order)
    return None


def _stage(part: str) -> tuple[str, str, int]:
    """(label, branch, order) of the stage that a name mentions; without one it is the first."""
    match = _NUMBERED.search(part)
    if match:
        return f"stage{int(match.group(1))}", match.group(2) or "", int(match.group(1))
    for i, (label, words) in enumerate(_NAMED):
        if re.search(rf"{_START}(?:{words})(?![a-z])", part):
            return label, "", _AFTER + i
    return "", "", 1


def _amount(match: re.Match) -> int:
    return round(float(match.group(1)) * _POWERS[match.group(2)])
