"""Where checkpoints come from: folders, a run folder, a Hub repository, the bundled series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError, first_line
from sinkscope.files import expanded
from sinkscope.settings import ASSETS
from sinkscope.training_runs.checkpoint import Checkpoint, TrainingRun
from sinkscope.training_runs.hub import hub_errors
from sinkscope.training_runs.revisions import (
    STEP,
    Revision,
    axis,
    listed,
    one_line,
    parse_all,
    parse_revision,
)

BUNDLED = "bundled"
SERIES = ASSETS / "series"


def find_runs(
    sources: Sequence[str | Path],
    *,
    revisions: Sequence[str] | None = None,
    pattern: str | None = None,
    offline: bool = False,
) -> list[TrainingRun]:
    """The runs that sources stand for.

    sources    run folders, Hub ids, "bundled" or "bundled:NAME", one run each; or folders that are
               checkpoints themselves, which make one run together
    revisions  names of the checkpoints, in order, instead of what is found
    pattern    a regular expression with a group `step`, for names that are not understood

    Raises InputError where a source is none, or holds fewer than two checkpoints.
    """
    if not sources:
        raise InputError("no checkpoints were named: give a run folder, a Hub id or 'bundled'.")
    runs: list[TrainingRun] = []
    single: list[Path] = []
    for source in sources:
        text = str(source)
        path = expanded(text)
        if text == BUNDLED or text.startswith(f"{BUNDLED}:"):
            runs += _bundled(text.partition(":")[2])
        elif path.is_dir():
            run = _run_folder(path, revisions, pattern)
            if run is None:
                single.append(path)
            else:
                runs.append(run)
        else:
            runs.append(_hub(text, revisions, pattern, offline))
    if len(single) == 1:
        raise InputError(
            f"{single[0]} is one checkpoint; a timeline needs two or more, or their run folder, "
            "and sinkscope run looks at one."
        )
    if single:
        runs.append(_folders(single, pattern))
    for run in runs:
        if len(run.checkpoints) < 2:
            raise InputError(f"{run.name} has one checkpoint only; a timeline needs two or more.")
    return _named_apart(runs)


def _run_folder(
    path: Path, revisions: Sequence[str] | None, pattern: str | None
) -> TrainingRun | None:
    """Sub-folders that are checkpoints; None where the folder is one model and nothing else."""
    names = sorted(str(p.relative_to(path)) for p in path.iterdir() if p.is_dir())
    notes: list[str] = []
    if revisions is not None:
        missing = [name for name in revisions if not (path / name).is_dir()]
        if missing:
            raise InputError(f"{path} has no folder {missing[0]!r}.")
        found = listed(revisions, pattern)
    else:
        found, _ = parse_all(names, pattern)
        found, notes = _one_line(found)
    if not found:
        if (path / "config.json").is_file():
            return None
        raise InputError(
            f"{path} holds no checkpoints: no sub-folder is named like checkpoint-500 or step1000; "
            "say how with --pattern, or list them with --revisions."
        )
    places = [str(_model_folder(path / revision.name)) for revision in found]
    return _run(path.resolve().name, found, places, notes)


def _model_folder(path: Path) -> Path:
    """The folder that holds config.json: the checkpoint's, or the only one below it."""
    if (path / "config.json").is_file():
        return path
    inner = [file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/config.json")]
    return inner[0] if len(inner) == 1 else path


def _folders(paths: list[Path], pattern: str | None) -> TrainingRun:
    """Folders that are checkpoints themselves: sorted by step, or in the order given."""
    parsed = [parse_revision(str(path), pattern) for path in paths]
    if all(one is not None and one.unit == STEP for one in parsed):
        found, _ = parse_all([str(path) for path in paths], pattern)
    else:
        found = listed([str(path) for path in paths], pattern)
    name = Path(found[0].name).resolve().parent.name
    places = [one.name for one in found]
    return _run(name, [replace(one, name=Path(one.name).name) for one in found], places, [])


def _bundled(name: str) -> list[TrainingRun]:
    found = sorted({path.parent for path in SERIES.glob("*/checkpoint-*")})
    if not found:
        raise InputError(
            "the bundled series is not in the wheel: pip install 'sinkscope[series]' adds it, and "
            "a clone or the sdist has it."
        )
    if name:
        found = [path for path in found if path.name == name]
    runs = [run for path in found if (run := _run_folder(path, None, None)) is not None]
    if not runs:
        raise InputError(f"there is no bundled series {name!r}.")
    return runs


def _hub(
    repo: str, revisions: Sequence[str] | None, pattern: str | None, offline: bool
) -> TrainingRun:
    """Branches and tags of a Hub repository, or its sub-folders, with their commits."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise InputError(f"{repo!r} is neither a folder nor a valid Hub id.") from None
    if offline:
        raise InputError(f"no folder {repo!r} here, and --offline forbids asking the Hub.")
    refs = _refs(repo)
    notes: list[str] = []
    if revisions is not None:
        missing = [name for name in revisions if name not in refs]
        if missing:
            raise InputError(f"{repo} has no branch or tag {missing[0]!r}.")
        found = listed(revisions, pattern)
    else:
        found, notes = _one_line(parse_all(refs, pattern)[0])
        found, more = _apart(found, refs)
        notes += more
    if found:
        run = _run(repo, found, [repo] * len(found), notes)
        commits = [replace(c, commit=refs[c.name]) for c in run.checkpoints]
        return replace(run, checkpoints=tuple(commits))
    return _hub_folders(repo, refs, pattern)


def _hub_folders(repo: str, refs: dict[str, str], pattern: str | None) -> TrainingRun:
    """A repository with a sub-folder for each checkpoint, all in one commit."""
    commit = refs.get("main") or next(iter(refs.values()))
    files = _ask(repo, "list_repo_files", revision=commit)
    folders = sorted(
        file.removesuffix("/config.json") for file in files if file.endswith("/config.json")
    )
    found, notes = _one_line(parse_all(folders, pattern)[0])
    if not found:
        raise InputError(
            f"{repo} has no revision or sub-folder that says a step, such as step1000; say how "
            "with --pattern, or list them with --revisions."
        )
    run = _run(repo, found, [repo] * len(found), notes)
    inside = [replace(c, commit=commit, subfolder=c.name) for c in run.checkpoints]
    return replace(run, checkpoints=tuple(inside))


def _refs(repo: str) -> dict[str, str]:
    """Commit of every branch and tag."""
    refs = _ask(repo, "list_repo_refs")
    return {ref.name: ref.target_commit for ref in (*refs.tags, *refs.branches)}


def _ask(repo: str, method: str, **arguments: Any) -> Any:
    """A call to the Hub whose failure is one sentence."""
    import huggingface_hub

    failures: tuple[type[BaseException], ...] = (*hub_errors(), ValueError)
    try:
        return getattr(huggingface_hub.HfApi(), method)(repo, **arguments)
    except failures as error:
        raise InputError(f"{repo} cannot be reached on the Hub: {first_line(error)}") from None


def _apart(found: list[Revision], refs: dict[str, str]) -> tuple[list[Revision], list[str]]:
    """One name for each commit: a tag beside its branch is the same checkpoint."""
    kept: dict[str, Revision] = {}
    for one in found:
        kept.setdefault(refs[one.name], one)
    double = len(found) - len(kept)
    note = f"{double} names were left out that point to the commit of another."
    return list(kept.values()), [note] if double else []


def _one_line(found: list[Revision]) -> tuple[list[Revision], list[str]]:
    kept, left = one_line(found)
    note = f"{len(left)} checkpoints of parallel branches were left out, such as {{}}."
    return kept, [note.format(left[0].name)] if left else []


def _run(name: str, found: list[Revision], places: list[str], notes: list[str]) -> TrainingRun:
    where = dict(zip((one.name for one in found), places, strict=True))
    checkpoints = tuple(
        Checkpoint(one.name, step, where[one.name], tokens=one.tokens, stage=one.stage)
        for one, step in zip(found, axis(found), strict=True)
    )
    return TrainingRun(name, checkpoints, found[0].unit, tuple(notes))


def _named_apart(runs: list[TrainingRun]) -> list[TrainingRun]:
    """Runs of the same name get a number behind it."""
    count: dict[str, int] = {}
    named = []
    for run in runs:
        count[run.name] = count.get(run.name, 0) + 1
        number = count[run.name]
        named.append(run if number == 1 else replace(run, name=f"{run.name}-{number}"))
    return named
