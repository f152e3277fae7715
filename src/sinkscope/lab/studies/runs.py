"""Train and measure the runs of a plan: the finished are skipped, those cut short resumed."""

import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

import sinkscope
from sinkscope.errors import Interrupted
from sinkscope.frame import Progress, silent
from sinkscope.lab import ranks
from sinkscope.lab.data import Data, prepare, reads_alike
from sinkscope.lab.recipe import TrainingRecipe
from sinkscope.lab.state import LOG, SETTINGS, STATE, load_model, run_log
from sinkscope.lab.studies.evaluate import evaluation, quick_evaluation, text_rows
from sinkscope.lab.studies.plan import StudyPlan, StudyRun
from sinkscope.lab.studies.results import (
    CURVES,
    RESULTS,
    begin,
    key_of,
    put_lines,
    read_lines,
)
from sinkscope.lab.train import Stopped, train
from sinkscope.subject.anatomy import find_anatomy
from sinkscope.subject.load import Subject


@dataclass
class StudyProgress:
    """How far a plan has come: folders of runs that are measured, and of those that are not."""

    done: list[str]
    left: list[str]


class Texts:
    """The encoded text of the run before, for the next one that reads the same.

    keep: the folder of text that is encoded already.
    """

    def __init__(self, corpus: Path | None, keep: Path) -> None:
        self.corpus, self.keep = corpus, keep
        self._last: tuple[TrainingRecipe, Data] | None = None

    def of(self, recipe: TrainingRecipe) -> Data:
        """What `prepare` gives for this recipe."""
        if self._last is None or not reads_alike(self._last[0], recipe):
            self._last = None  # two texts need not be in memory at once
            self._last = recipe, prepare(recipe, self.corpus, self.keep)
        return self._last[1]


def run_plan(
    plan: StudyPlan,
    out: Path,
    corpus: Path | None = None,
    device: str = "cpu",
    minutes: float | None = None,
    progress: Progress = silent,
) -> StudyProgress:
    """Train and measure into `out` until all is done or the minutes are over.

    Errors: InputError as in `results.begin`, and of the corpus; Interrupted on Ctrl-C, with the
    state saved.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    if ranks.first():
        begin(out, plan, corpus)
    ranks.wait()
    done: list[str] = []
    texts = Texts(corpus, out / "text")
    for run in plan.runs:
        if not _measured(plan, run, out):
            try:
                _one(plan, run, out, texts, device, deadline, progress)
            except Stopped:
                break
            ranks.wait()  # none may ask what is measured before it is written
        done.append(run.folder)
    return StudyProgress(done, [run.folder for run in plan.runs if run.folder not in done])


def _over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


def _measured(plan: StudyPlan, run: StudyRun, out: Path) -> bool:
    wanted = {(run.cell, run.seed, bos) for bos in plan.experiment.evaluate}
    return wanted <= {key_of(line) for line in read_lines(out / RESULTS)}


def _one(
    plan: StudyPlan,
    run: StudyRun,
    out: Path,
    texts: Texts,
    device: str,
    deadline: float | None,
    progress: Progress,
) -> None:
    """Train one run as far as there is time, and measure it; Stopped where there was not enough."""
    if ranks.mean(float(ranks.first() and _over(deadline))) > 0:
        raise Stopped
    folder = out / "runs" / run.folder
    data = texts.of(run.recipe)
    rows = text_rows(
        run.recipe, texts.corpus, data.tokenizer, plan.settings.windows, plan.settings.length
    )
    bos = "with" if run.recipe.bos else "without"

    def measure(model: PreTrainedModel) -> dict:
        # without an identity, which would hash all weights, and without leaving training mode
        return quick_evaluation(Subject(model, data.tokenizer, find_anatomy(model)), rows, bos)

    if not is_finished(folder):
        resume = (folder / STATE).is_file()
        ranks.wait()
        if not resume and ranks.first():  # cut short before there was a state to go on from
            shutil.rmtree(folder, ignore_errors=True)
        try:
            train(
                run.recipe,
                data,
                folder,
                device,
                resume,
                lambda row: progress(run.folder, row["step"], run.recipe.steps),
                measure=measure,
                every=plan.settings.every,
                stop=lambda: _over(deadline),
            )
        except Interrupted:
            raise Interrupted(
                f"interrupted; give the same command again to go on in {out}."
            ) from None
    if ranks.first():
        _measure(plan, run, out, rows, data, device, bos)


def _measure(
    plan: StudyPlan, run: StudyRun, out: Path, rows: Tensor, data: Data, device: str, bos: str
) -> None:
    """Write down the curve and the figures of a finished run; bos: that of its curve."""
    folder = out / "runs" / run.folder
    put_lines(out / CURVES, [{"cell": run.cell, "seed": run.seed, "bos": bos, **curve_of(folder)}])
    model = load_model(folder).to(torch.device(device))  # type: ignore[arg-type]
    subject = Subject.from_model(model, data.tokenizer, name=run.folder)
    lines = [
        {
            "cell": run.cell,
            "seed": run.seed,
            "bos": each,
            "figures": evaluation(subject, rows, each),
            "training": _training(run, subject, folder),
            "provenance": _provenance(run, subject, len(rows), data.sha256),
        }
        for each in plan.experiment.evaluate
    ]
    put_lines(out / RESULTS, lines)


def is_finished(folder: Path) -> bool:
    """Whether a run's folder holds its final model: the state goes last."""
    return (folder / SETTINGS).is_file() and not (folder / STATE).is_file()


def curve_of(folder: Path) -> dict[str, list[float]]:
    """The points of a run's curve: `step`, and each figure as a list."""
    lines = (folder / LOG).read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "validation" in row]
    names = rows[0]["validation"]
    return {
        "step": [row["step"] for row in rows],
        **{name: [row["validation"][name] for row in rows] for name in names},
    }


def _training(run: StudyRun, subject: Subject, folder: Path) -> dict[str, Any]:
    recipe = run.recipe
    return {
        "parameters": subject.identity["parameters"],
        "steps": recipe.steps,
        "tokens": recipe.steps * recipe.tokens_per_step,
        "minutes": run_log(folder, recipe.tokens_per_step).get("minutes"),
    }


def _provenance(run: StudyRun, subject: Subject, windows: int, sha256: str) -> dict[str, Any]:
    import transformers

    return {
        "sinkscope": sinkscope.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
        "device": _device_name(subject.device),
        "weights_sha256": subject.identity["weights_sha256"],
        "text_sha256": sha256,
        "windows": windows,
        "recipe": run.recipe.as_dict(),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
