"""GGUF files: which one is meant, what its weights are, and a plain model out of it.

A GGUF file holds configuration, tokenizer and weights in one. transformers unpacks its blocks into
an ordinary model (`gguf_file=`), so a reader sees dequantised weights: what the file's numbers say,
not what an engine computes from them with its own kernels.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError, first_line
from sinkscope.subject.incomplete import refuse_pointer

MAGIC = b"GGUF"
SUFFIX = ".gguf"
_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_INSTALL = "reading GGUF needs the packages gguf and accelerate: pip install 'sinkscope[gguf]'."


@dataclass(frozen=True)
class GgufFile:
    """A GGUF file as transformers is told of it.

    where  folder or Hub id; name  the file in it
    """

    where: str
    name: str

    @property
    def path(self) -> Path | None:
        """The file, where it is a local one."""
        path = Path(self.where) / self.name
        return path if path.is_file() else None


def find_gguf(source: Path | str, name: str | None = None) -> GgufFile | None:
    """The GGUF file that a source stands for, or None for another kind of source.

    source  a .gguf file, a folder that holds one and no config.json, or with `name` any folder or
            Hub id

    Raises InputError where the file is missing or not GGUF, or where several could be meant.
    """
    path = Path(source)
    if name is not None:
        found = GgufFile(str(source), name)
        if path.is_dir():
            _check(path / name)
        elif path.is_file():
            raise InputError(f"{path} is a file; --gguf-file names a file in a folder or Hub id.")
        return found
    if path.is_file() and (path.suffix.lower() == SUFFIX or _starts_with_magic(path)):
        _check(path)
        return GgufFile(str(path.parent), path.name)
    if path.is_file():
        raise InputError(f"{path} is a file: give the folder it lies in, or a .gguf file.")
    if not path.is_dir() or (path / "config.json").exists():
        return None
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == SUFFIX)
    if len(files) > 1 and not all(_SPLIT.search(file.name) for file in files):
        names = ", ".join(file.name for file in files[:4])
        raise InputError(f"{path} holds {len(files)} GGUF files; say which: --gguf-file {names} ..")
    if not files:
        return None
    _check(files[0])
    return GgufFile(str(path), files[0].name)


def _check(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"No such file: {path}.")
    if _SPLIT.search(path.name):
        raise InputError(
            f"{path.name} is a part of a split GGUF file; join the parts with "
            "llama-gguf-split --merge."
        )
    refuse_pointer(path)
    if not _starts_with_magic(path):
        raise InputError(f"{path} does not begin as a GGUF file does (a broken copy?)")


def _starts_with_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def load_options(file: GgufFile | None) -> dict[str, Any]:
    """What transformers' `from_pretrained` of the configuration and the tokenizer is told.

    Raises InputError without the packages that it needs.
    """
    if file is None:
        return {}
    from transformers.utils import is_accelerate_available, is_gguf_available

    if not is_gguf_available() or not is_accelerate_available():
        raise InputError(_INSTALL)
    return {"gguf_file": file.name}


def weight_options(file: GgufFile | None) -> dict[str, Any]:
    """The same for the weights: unpacked, since a family's own attention reads plain matrices."""
    options = load_options(file)
    if file is None:
        return {}
    import transformers

    if hasattr(transformers, "GgufConfig"):  # newer releases keep the blocks unless told otherwise
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    return options


def as_plain(model: Any) -> Any:
    """The model without the marks of quantisation, which its unpacked weights no longer have.

    With them it could be neither saved nor built anew from its configuration.
    """
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if name in vars(model):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def weight_format(file: GgufFile, common: dict[str, Any]) -> dict[str, Any]:
    """What the weights of a file were: {"container", "label", "types"}.

    label  the type that most parameters have, such as Q4_1, as llama.cpp names it
    types  parameters of each type
    Raises InputError for a file that cannot be read.
    """
    from gguf import GGUFReader
    from transformers.utils import cached_file

    told = {name: common[name] for name in ("revision", "local_files_only")}
    path = file.path or Path(cached_file(file.where, file.name, **told) or file.name)
    try:
        tensors = GGUFReader(path).tensors
    except (ValueError, IndexError, KeyError, OSError, OverflowError) as error:
        raise InputError(f"{path} cannot be read as GGUF: {first_line(error)}") from None
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[tensor.tensor_type.name] += int(tensor.n_elements)
    types = dict(counts.most_common())
    return {"container": "gguf", "label": next(iter(types), "none"), "types": types}
