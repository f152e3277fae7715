"""What a run leaves on disk: model folders, each whole or not at all, and the state to resume from.

OUT/checkpoint-STEP/   ordinary model folders
OUT/log.jsonl          one JSON object a step
OUT/state.pt           weights, optimizer and random states; gone when the run is finished
OUT/model.safetensors  and the rest of the final model, once the run is finished
"""

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from sinkscope.errors import InputError
from sinkscope.files import disk_errors, sweep_out, written
from sinkscope.lab.recipe import TrainingRecipe

STATE, LOG, SETTINGS, PART = "state.pt", "log.jsonl", "sink_heads.json", ".part"


def check_out(out: Path, resume: bool) -> None:
    """Refuse a folder that a run cannot be written to, or cannot be resumed from."""
    if resume:
        if not (out / STATE).is_file() and not (out.is_dir() and _unbegun(out)):
            done = (out / SETTINGS).is_file()
            raise InputError(
                f"{out} {'is finished already' if done else 'holds no run to resume'}."
            )
    elif out.exists() and not _unbegun(out):
        raise InputError(f"{out} exists already: choose another --out, or --resume it.")


def _unbegun(out: Path) -> bool:
    """Whether a folder holds nothing, or only what a run leaves that had no state yet.

    Such a run begins anew, with --resume and without.
    """
    left = {LOG, f".{STATE}", PART}
    return out.is_dir() and all(file.name in left for file in out.iterdir())


def make_folder(out: Path) -> None:
    """Make `out` where it is not there yet."""
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        sweep_out(out)


def save_model(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, recipe: TrainingRecipe
) -> None:
    """Weights in bfloat16, tokenizer, `sink_heads.json`: the supervised heads and all settings."""
    half: nn.Module = copy.deepcopy(model)
    half.to(device="cpu", dtype=torch.bfloat16)
    half.save_pretrained(folder, max_shard_size="15MB")  # type: ignore[operator]
    tokenizer.save_pretrained(folder)
    settings = {
        "supervised_heads": recipe.supervised_heads(),
        "recipe": recipe.as_dict(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def save_checkpoint(out: Path, step: int, *parts: Any) -> None:
    """`save_model` into `out/checkpoint-STEP`, which gets its name when all is written."""
    target = out / f"checkpoint-{step}"
    with _written(out, *parts) as part:
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)


def save_final(out: Path, *parts: Any) -> None:
    """`save_model` into `out` itself; the state goes last, so that an end cut short is resumed."""
    with _written(out, *parts) as part:
        for file in part.iterdir():
            file.replace(out / file.name)
        part.rmdir()
        (out / STATE).unlink(missing_ok=True)


@contextmanager
def _written(out: Path, *parts: Any) -> Iterator[Path]:
    """A folder in `out` that holds a model, until it is moved. Raises as `disk_errors` does."""
    part = out / PART
    shutil.rmtree(part, ignore_errors=True)
    try:
        with disk_errors(out):
            part.mkdir(parents=True)
            save_model(part, *parts)
            yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
    written.append(out)


def save_state(out: Path, state: dict[str, Any]) -> None:
    """Replace the state that `load_state` returns."""
    part = out / f".{STATE}"
    try:
        with disk_errors(out):
            torch.save(state, part)
            part.replace(out / STATE)
    finally:
        part.unlink(missing_ok=True)
    written.append(out)


def load_state(out: Path, recipe: TrainingRecipe, sha256: str) -> dict[str, Any]:
    """The last saved state of a run that has not finished; `cut_back` removes what came after it.

    Errors: InputError where it is damaged, or where recipe or text are not those it began with.
    """
    try:
        state = torch.load(out / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch says of a damaged file
        raise InputError(f"{out / STATE} cannot be read: remove {out} and begin again.") from error
    if state["recipe"] != json.dumps(recipe.as_dict()):
        raise InputError(f"{out} was begun with other settings: give the same, or another --out.")
    if state["sha256"] != sha256:
        raise InputError(f"{out} was begun on another text: give the same, or another --out.")
    return state


def cut_back(out: Path, step: int) -> None:
    """Drop checkpoints and log rows behind a step, and a last line that was cut short.

    Of step 0 nothing is kept: a run that goes on from there writes its row again.
    """
    for folder in out.glob("checkpoint-*"):
        if int(folder.name.rpartition("-")[2]) > step:
            shutil.rmtree(folder)
    path, kept = out / LOG, []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step or step == 0:
            break
        kept.append(line)
    path.write_text("".join(kept), encoding="utf-8")


def run_log(folder: Path, tokens_per_step: int) -> dict:
    """Steps, minutes and median seconds a step from the folder's log; empty without."""
    path = folder / LOG
    if not path.is_file():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if "tokens_per_second" in row]
    seconds = [tokens_per_step / row["tokens_per_second"] for row in rows]
    return {"steps": len(rows), "minutes": sum(seconds) / 60, "seconds_a_step": median(seconds)}


def load_model(folder: Path) -> PreTrainedModel:
    """The model in a folder, float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
