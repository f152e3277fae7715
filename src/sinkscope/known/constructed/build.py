"""Build a constructed model, in memory or as an ordinary Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sinkscope.errors import InputError
from sinkscope.files import expanded, fill_folder
from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.choices import SMALL_VOCABULARIES
from sinkscope.known.constructed.gpt2 import Gpt2Canvas
from sinkscope.known.constructed.gpt_oss import GptOssCanvas
from sinkscope.known.constructed.mechanisms import write_mechanism
from sinkscope.known.constructed.moe import MixtralCanvas
from sinkscope.known.constructed.plan import make_plan
from sinkscope.known.constructed.spec import Spec, check_spec
from sinkscope.known.constructed.truth import FILE, Truth

FAMILIES: dict[str, type[Canvas]] = {
    "llama": Canvas,
    "mixtral": MixtralCanvas,
    "gpt2": Gpt2Canvas,
    "gpt_oss": GptOssCanvas,
}
SPECIAL = ("<s>", "</s>")
CHARACTERS = " etaoinshrdlucmfwygpbvk,.\n'\"-;:!xjqz0123456789()[]_*/&%$+=~"


def build_in_memory(spec: Spec) -> tuple[Any, Any, Truth]:
    """The model (fp32, eval), its tokenizer and its truth.

    Equal specifications give equal weights; the global random state is left as it was. Raises
    InputError where the specification cannot be built.
    """
    canvas, truth = build_canvas(spec)
    return canvas.model.eval(), tokenizer_of(spec.vocab), truth


def build_canvas(spec: Spec) -> tuple[Canvas, Truth]:
    """The model behind its canvas, and its truth."""
    check_spec(spec)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        canvas = FAMILIES[spec.family].empty(spec)
        canvas.clear()
        return canvas, write_mechanism(canvas, make_plan(spec))


def canvas_of(model: Any) -> Canvas:
    """The canvas of a model that was loaded from its folder."""
    if model.config.model_type not in FAMILIES:
        raise InputError(f"{model.config.model_type} is not a family that is constructed here.")
    return FAMILIES[model.config.model_type](model)


def build_model(spec: Spec, folder: str | Path) -> Path:
    """Build a model and save config, weights, tokenizer and `truth.json` in `folder`.

    The folder appears whole or not at all. A model folder of ours that is already there is
    replaced; raises InputError for any other folder that is not empty.
    """
    folder = expanded(folder)
    if folder.exists() and not (folder / FILE).is_file() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty and holds no constructed model; choose another.")
    model, tokenizer, truth = build_in_memory(spec)

    def fill(place: Path) -> None:
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        truth.save(place)

    before = [file.name for file in folder.iterdir() if file.is_file()] if folder.exists() else []
    return fill_folder(folder, fill, gone=before)


def tokenizer_of(size: int) -> Any:
    """A tokenizer of bytes, or of single characters where there are fewer ids than bytes."""
    return character_tokenizer(size) if size in SMALL_VOCABULARIES else byte_tokenizer(size)


def character_tokenizer(size: int) -> Any:
    """Lower-case characters behind <s> and </s>; the last id is for all that have none."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*SPECIAL, *CHARACTERS[: size - len(SPECIAL) - 1], "?"]
    core = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="?"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        unk_token="?",
        clean_up_tokenization_spaces=False,
    )


def byte_tokenizer(size: int) -> Any:
    """Every byte a token, behind <s> and </s>, filled up to `size` entries that no text gives.

    BOS is defined but never added by itself.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    entries = [*SPECIAL, *(_byte_names()[byte] for byte in range(256))]
    entries += [f"<{i}>" for i in range(len(entries), size)]
    core = Tokenizer(models.BPE({name: i for i, name in enumerate(entries)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[1],
        clean_up_tokenization_spaces=False,
    )


def _byte_names() -> list[str]:
    """The printable character that stands for each byte in a byte-level tokenizer (GPT-2's)."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    names, spare = [], 256
    for byte in range(256):
        names.append(chr(byte if byte in plain else spare))
        spare += byte not in plain
    return names
