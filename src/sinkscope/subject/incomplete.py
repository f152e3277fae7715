"""Folders that are no whole model: what training frameworks leave, half downloads, pointers."""

from __future__ import annotations

import json
from pathlib import Path

from sinkscope.errors import InputError
from sinkscope.subject.header import INDEX, WHOLE

LFS = b"version https://git-lfs"
# Weights that only other tools read.
OTHER_FORMATS = {
    "*.onnx": "of ONNX", "onnx/*.onnx": "of ONNX", "*.h5": "of TensorFlow",
    "*.xml": "of OpenVINO", "*.engine": "compiled by TensorRT", "*.mlpackage": "of Core ML",
    "*.mlmodel": "of Core ML", "*.tflite": "of LiteRT", "*.ot": "of rust-bert",
    "*ggml*.bin": "in the format before GGUF", "*.pte": "of ExecuTorch", "*.q4f16*": "of MLC",
    "params_shard_*.bin": "of MLC", "*.tar*": "in an archive", "*.zip": "in an archive",
}  # fmt: skip
# What a folder without config.json is told by, and what makes a model folder of it.
LEFT_BY_TRAINING = (
    ("pytorch_model_fsdp_*/*.distcp", "shards of FSDP", "accelerate merge-weights"),
    ("pytorch_model_fsdp_*", "a checkpoint of FSDP", "save_pretrained() on its full state"),
    ("**/*.distcp", "a checkpoint of torch.distributed.checkpoint",
     "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"),
    ("zero_to_fp32.py", "a checkpoint of DeepSpeed", "its zero_to_fp32.py"),
    ("global_step*", "a checkpoint of DeepSpeed", "its zero_to_fp32.py"),
    ("**/*zero_pp_rank_*", "a checkpoint of DeepSpeed", "its zero_to_fp32.py"),
    ("**/mp_rank_*", "a checkpoint of Megatron", "Megatron's own converter to Hugging Face"),
    ("latest_checkpointed_iteration.txt", "a run of Megatron",
     "Megatron's own converter to Hugging Face"),
    ("*.nemo", "a model of NeMo", "NeMo's own converter to Hugging Face"),
    ("*.ckpt", "a checkpoint of Lightning", "save_pretrained() on the model inside it"),
    ("*.msgpack", "a model of Flax", "from_pretrained(from_flax=True) of transformers 4"),
    ("params.json", "a model in Llama's or Mistral's own layout",
     "the conversion script of its family in transformers"),
)  # fmt: skip


def left_by_training(path: Path) -> str:
    """What a folder without a model is, and what to do about it; "" for what is not known."""
    for pattern, what, converter in LEFT_BY_TRAINING:
        if next(path.glob(pattern), None) is not None:
            return (
                f"{path} is {what}, not a Hugging Face model folder; convert it with {converter}."
            )
    return _below(path) or _of_another_tool(path)


def _below(path: Path) -> str:
    """What of a model lies in the folders below, and is to be given instead of this one."""
    models = ("*/config.json", "*/*/config.json", "*/adapter_config.json")
    found = list(dict.fromkeys(f.parent for p in models for f in sorted(path.glob(p))))
    if not found:
        return ""
    few = ", ".join(str(each) for each in found[:3]) + (" .." if len(found) > 3 else "")
    if len(found) == 1:
        return f"{path} has no config.json; the model lies below it: give {few}."
    return (
        f"{path} has no config.json and holds {len(found)} models: give one of them ({few}), or "
        "follow them with sinkscope timeline."
    )


def _of_another_tool(path: Path) -> str:
    """What a folder is whose only weights are in a format that transformers does not read."""
    for pattern, what in OTHER_FORMATS.items():
        if next(path.glob(pattern), None) is not None:
            return f"{path} is a model {what}; give the folder of safetensors it was made from."
    if (path / "tokenizer.json").is_file() or (path / "tokenizer_config.json").is_file():
        return f"{path} holds a tokenizer and no model."
    return "" if any(path.iterdir()) else f"{path} is empty: it has no config.json."


def refuse_pieces(path: Path) -> None:
    """Refuse Git-LFS pointers in the place of files, and shards that an index names and lacks."""
    for file in sorted(path.iterdir()):
        if file.suffix in (".safetensors", ".json", ".model", ".bin", ".gguf") and file.is_file():
            refuse_pointer(file)
    index = path / INDEX
    if not index.is_file() or (path / WHOLE).is_file():  # transformers reads the whole file
        return
    try:
        held = json.loads(index.read_text(encoding="utf-8"))
        shards = sorted(set(held["weight_map"].values()))
        missing = [name for name in shards if not (path / name).is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index} is no index of shards ({error}).") from None
    if not isinstance(held.get("metadata"), dict):
        raise InputError(
            f'{index} has no "metadata", which transformers wants: put "metadata": {{}}.'
        )
    if missing:
        raise InputError(
            f"{path} lacks {len(missing)} of {len(shards)} shards that {INDEX} names, such as "
            f"{missing[0]}: the download or the save was cut off."
        )


def refuse_pointer(file: Path) -> None:
    """Refuse a text file that Git LFS left where the file itself should be."""
    with file.open("rb") as handle:
        if handle.read(len(LFS)) == LFS:
            raise InputError(
                f"{file} is a Git-LFS pointer, not the file itself; fetch it with git lfs pull."
            )
