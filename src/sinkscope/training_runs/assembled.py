"""Checkpoints that are no model folder yet: put together in a temporary one, in this process.

torch.distributed.checkpoint (which FSDP saves by) leaves shards, *.distcp, beside a pickled index,
.metadata; others leave model.safetensors without config.json. The configuration is then that of the
run folder, or of another checkpoint. The index is unpickled with the classes that it is made of and
no others, so that no code runs; tensors are read by torch with weights_only.
"""

from __future__ import annotations

import hashlib
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sinkscope.errors import InputError, first_line
from sinkscope.subject.checkpoint_keys import key_mapping, renamed
from sinkscope.subject.header import WHOLE
from sinkscope.subject.memory import refuse_too_large
from sinkscope.subject.plan import LoadPlan, laid_out, model_classes, plan_blocks
from sinkscope.subject.weights import LOCAL, load_config
from sinkscope.training_runs.hub import SMALL

CONFIG, METADATA, SHARD = "config.json", ".metadata", ".distcp"
# Modules whose classes an index is made of; of torch only what has no code of its own.
_OF_DCP = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
_PLAIN = {"collections": ("OrderedDict", "defaultdict"), "pathlib": ("Path", "PosixPath"),
          "pathlib._local": ("Path", "PosixPath"), "torch": ("Size", "device"),
          "torch.serialization": ("_get_layout",)}  # fmt: skip
_ENDINGS = ("Metadata", "Meta", "Index", "Properties", "Info", "Prefix", "_ENCODING")


class _Index(pickle.Unpickler):
    """An unpickler that knows the classes of an index and nothing that could act."""

    def find_class(self, module: str, name: str) -> Any:
        of_index = module in _OF_DCP and name.endswith(_ENDINGS) and "." not in name  # not further
        allowed = of_index or name in _PLAIN.get(module, ())
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not (allowed or dtype):
            raise InputError(f"{METADATA} names {module}.{name}, which is no part of an index.")
        return super().find_class(module, name)


def needs_assembly(folder: Path) -> bool:
    """Whether a checkpoint folder is one of those that can be put together here."""
    if (folder / CONFIG).is_file() and any(folder.glob("*.safetensors")):
        return False
    parts = _shards(folder) is not None or (folder / WHOLE).is_file()
    return parts and _configured(folder) is not None


def content(folder: Path) -> str:
    """Hash of what such a checkpoint is made of; of its shards name, size and time of writing."""
    digest = hashlib.sha256((_base(folder) / CONFIG).read_bytes())
    parts = _shards(folder) or folder
    for file in sorted(parts.iterdir()):
        if file.suffix in (SHARD, ".safetensors") or file.name == METADATA:
            about = file.stat()
            digest.update(f"{file.name} {about.st_size} {about.st_mtime_ns}".encode())
    return digest.hexdigest()


def note(folder: Path) -> str:
    """What is to be said of a checkpoint that is put together."""
    base, said = _base(folder), []
    if _shards(folder) is not None:
        said.append("its weights were put together from shards")
    if base != folder:
        said.append(f"its config.json is that of {base.name}")
    return ", and ".join(said)


@contextmanager
def assembled(folder: Path, blocks: int | None) -> Iterator[Path]:
    """A model folder made of a checkpoint, for the time being.

    blocks  how many first blocks are needed; None: all
    Raises InputError where the weights are not those of the configuration.
    """
    base, parts = _base(folder), _shards(folder)
    place = Path(tempfile.mkdtemp(prefix="sinkscope-"))
    try:
        for source in (base, folder):
            for file in (f for f in source.iterdir() if f.suffix in SMALL and f.is_file()):
                shutil.copyfile(file, place / file.name)
        if parts is None:
            (place / WHOLE).symlink_to((folder / WHOLE).resolve())
        else:
            _write(parts, place, blocks)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _shards(folder: Path) -> Path | None:
    """The folder of shards and their index: the checkpoint's own or the only one of a model."""
    found = [file.parent for depth in ("", "*/") for file in folder.glob(f"{depth}{METADATA}")]
    found = [f for f in found if "optim" not in f.name and any(f.glob(f"*{SHARD}"))]
    return found[0] if len(found) == 1 else None


def _configured(folder: Path) -> Path | None:
    """Where the configuration is: the checkpoint, the run folder, or another checkpoint of it."""
    others = sorted(file.parent for file in folder.parent.glob(f"*/{CONFIG}"))
    places = (folder, folder.parent, *others)
    return next((place for place in places if (place / CONFIG).is_file()), None)


def _base(folder: Path) -> Path:
    found = _configured(folder)
    if found is None:
        raise InputError(f"{folder} has no {CONFIG}, and none lies beside it or above it.")
    return found


def _write(parts: Path, place: Path, blocks: int | None) -> None:
    """The weights of the first blocks (None: all) out of shards, as one safetensors file."""
    from safetensors.torch import save_file

    config = load_config(str(place), LOCAL)
    refuse_too_large(config.to_dict(), None, None, str(parts))
    plan = plan_blocks(config, blocks)
    wanted, tied = _parameters(plan, config)
    index = _read_index(parts)
    held = {
        name: about
        for name, about in index.state_dict_metadata.items()
        if hasattr(about, "properties")
    }
    mapping = key_mapping(wanted, held) if not wanted.keys() <= held.keys() else {}
    stored = {renamed(name, mapping): name for name in held}
    tensors = {}
    for name, shape in {**wanted, **tied}.items():
        if name not in stored:
            if name in wanted:
                raise InputError(f"{parts} lacks weights of its configuration, such as {name}.")
            continue
        about = held[stored[name]]
        if tuple(about.size) != shape:
            raise InputError(
                f"{parts}: {name} is {list(about.size)}, where config.json asks for {list(shape)}."
            )
        tensors[stored[name]] = torch.empty(shape, dtype=about.properties.dtype)
    _fill(parts, index, tensors)
    save_file({n: tensors[stored[n]] for n in stored if stored[n] in tensors}, place / WHOLE,
              metadata={"format": "pt"})  # fmt: skip


def _parameters(plan: LoadPlan, config: Any) -> tuple[dict, dict]:
    """Name -> shape of the weights that are needed, and of those that are tied to them."""
    model = laid_out(model_classes(config)[1], config)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters(remove_duplicate=False)}
    needed = {name: shape for name, shape in shapes.items() if plan.keeps(name)}
    return (
        {name: shape for name, shape in needed.items() if name not in tied},
        {name: shape for name, shape in needed.items() if name in tied},
    )


def _read_index(parts: Path) -> Any:
    try:
        with (parts / METADATA).open("rb") as file:
            index = _Index(file).load()
        places = {str(about.relative_path) for about in index.storage_data.values()}
        index.state_dict_metadata.items()
    except InputError as error:
        raise InputError(f"{parts}: {error}") from None
    except Exception as error:  # noqa: BLE001 - all that a damaged pickle ends in
        raise InputError(f"{parts / METADATA} cannot be read ({type(error).__name__}).") from None
    if wrong := [name for name in places if Path(name).name != name]:
        raise InputError(f"{parts / METADATA} names {wrong[0]!r}, which is no file beside it.")
    return index


def _fill(parts: Path, index: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Read tensors out of the shards, each into its place."""
    import torch.distributed.checkpoint as dcp

    class Reader(dcp.FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            return index

    try:
        with warnings.catch_warnings():  # that there is but one process
            warnings.simplefilter("ignore")
            dcp.load(tensors, storage_reader=Reader(parts), no_dist=True)
    except (Exception, dcp.api.CheckpointException) as error:  # a cut shard ends in many ways  # noqa: BLE001
        failed = [inner for inner, _ in getattr(error, "failures", {}).values()]
        cause = failed[0] if failed else error
        raise InputError(f"{parts}: its shards cannot be read: {first_line(cause)}") from None
