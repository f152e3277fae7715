"""Where a model comes from: the bundled one, a folder that may be read, or a Hub id."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError, Unsupported
from sinkscope.files import read_object
from sinkscope.settings import ASSETS
from sinkscope.subject.blame import refuse_wrong_values
from sinkscope.subject.header import INDEX, WHOLE, declared, refuse_no_numbers
from sinkscope.subject.incomplete import left_by_training, refuse_pieces
from sinkscope.subject.memory import refuse_too_large

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
READ = (".json", ".jinja", ".txt", ".model", ".safetensors", ".py", *PICKLE_SUFFIXES)


def bundled_model() -> Path:
    """Folder of the reference model that ships with the package."""
    return ASSETS / "reference-model"


def refuse_bad_id(source: str) -> None:
    """Refuse what is neither a folder nor a Hub id."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if source.startswith((".", "/", "~")) or (
        os.sep in source.rstrip("/") and source.count("/") > 1
    ):
        raise InputError(f"No such folder: {source}.")
    try:
        validate_repo_id(source)
    except HFValidationError:
        raise InputError(f"{source!r} is neither a folder nor a valid Hub id.") from None


def check_weights(
    path: Path, config: dict[str, Any], dtype: str | None, part: int | None = None
) -> dict[str, dict[str, Any]] | None:
    """What the safetensors files of a folder declare; None without such files.

    part  how many first blocks are needed of them; None: all
    Refuses weights that are no floating-point numbers, and what `refuse_too_large` does.
    """
    tensors = declared(path) or None
    if tensors and not config.get("quantization_config"):
        _refuse_packed(path, config)
        refuse_no_numbers(tensors, str(path))
    refuse_too_large(config, tensors, dtype, str(path), part)
    return tensors


def _refuse_packed(path: Path, config: dict[str, Any]) -> None:
    """Refuse what says in its own way that it is quantised, and that transformers does not read."""
    if isinstance(config.get("quantization"), dict) and "bits" in config["quantization"]:
        raise Unsupported(
            f"{path} is quantised by MLX, which transformers cannot read: give the model that it "
            "was made from, or write one with mlx_lm.convert --dequantize."
        )
    if (path / "hf_quant_config.json").is_file():
        raise Unsupported(
            f"{path} is quantised by ModelOpt (hf_quant_config.json), which transformers cannot "
            "read: give the model that it was made from."
        )


def check_folder(
    path: Path, *, allow_pickle: bool = False, trust_remote_code: bool = False
) -> dict[str, Any]:
    """The content of config.json.

    Refuses a folder without a readable config.json, or without weights that may be read.
    """
    _refuse_bytes(path)
    config_file = path / "config.json"
    for entry in path.iterdir():
        if entry.suffix not in READ or entry.is_file() or entry.is_dir():
            continue
        if entry.is_symlink() and not entry.exists():
            raise InputError(
                f"{entry} is a link to {os.readlink(entry)}, which is not there: the download was "
                "cut off, or the folder was copied without what it links to."
            )
        raise InputError(f"{entry} is no regular file.")  # to read a pipe is to wait for ever
    refuse_pieces(path)
    if not config_file.is_file():
        other = left_by_training(path)
        raise InputError(
            other or f"{path} has no config.json, so it is not a Hugging Face model folder."
        )
    config = read_object(config_file)
    refuse_foreign_code(config, str(path))
    refuse_wrong_values(config, str(path))
    refuse_too_large(config, None, None, str(path))  # before transformers lays it out
    if "auto_map" in config and not trust_remote_code and not config.get("model_type"):
        raise InputError(f"{path} needs its own code; pass --trust-remote-code if you trust it.")
    files = [f for f in path.iterdir() if f.is_file()]
    if any(f.suffix == ".safetensors" for f in files):
        _refuse_odd_names(path, files)
        return config
    pickles = [f.name for f in files if f.suffix in PICKLE_SUFFIXES]
    if pickles and not allow_pickle:
        raise InputError(
            f"{path} holds only pickle weights ({pickles[0]}), which can run code when loaded; "
            "convert them to safetensors or pass --allow-pickle if you trust the source."
        )
    if not pickles:
        other = left_by_training(path)
        raise InputError(f"{path} holds no weights (no .safetensors file). {other}".rstrip())
    return config


def _refuse_bytes(path: Path) -> None:
    """Refuse a path whose bytes are no UTF-8, which safetensors and tokenizers cannot open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"The name {str(path)!r} is not UTF-8: rename it to have it read."
        ) from None


def _refuse_odd_names(path: Path, files: list[Path]) -> None:
    """Refuse safetensors files of which none bears the name that is looked for."""
    names = sorted(file.name for file in files)
    if WHOLE not in names and INDEX not in names:
        there = next(name for name in names if name.endswith(".safetensors"))
        own = " (Mistral's own layout)" if there.startswith("consolidated") else ""
        raise InputError(
            f"{path} holds {there}{own}, and neither {WHOLE} nor the index of shards, "
            f"{INDEX}, that transformers reads."
        )


def refuse_foreign_code(config: Any, where: str) -> None:
    """Raise InputError where a configuration names an implementation that would be downloaded.

    transformers takes a value such as `org/kernels` for a Hub repository of code.
    """
    held = [config]
    while held:
        for key, value in held.pop().items():
            if isinstance(value, dict):
                held.append(value)
            elif str(key).endswith("_implementation") and "/" in str(value):
                raise InputError(
                    f"{where}: config.json names code on the Hub as its {key} ({value!r}); "
                    "remove it."
                )
