"""Load a causal language model safely and say exactly what was loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sinkscope.errors import InputError
from sinkscope.subject import adapters, gguf
from sinkscope.subject.anatomy import Anatomy, find_anatomy
from sinkscope.subject.at_hand import input_device, is_brought, is_packed, rounds_input
from sinkscope.subject.blame import odd_settings, rope_warnings
from sinkscope.subject.folder import check_folder, check_weights
from sinkscope.subject.header import INDEX, WHOLE, header_hash
from sinkscope.subject.identity import identity_of, planned_identity, say, stored_as
from sinkscope.subject.memory import refuse_large_layout, refuse_too_large
from sinkscope.subject.merging import merge
from sinkscope.subject.offline import hub_forbidden
from sinkscope.subject.place import Place, adapter_at, find_place, refuse_two_places
from sinkscope.subject.probe import refuse_no_finite, refuse_no_model, try_out
from sinkscope.subject.spread import make_whole, spreading
from sinkscope.subject.streamed import streamed_model
from sinkscope.subject.towers import text_decoder
from sinkscope.subject.weights import (
    LOCAL,
    load_config,
    load_tokenizer,
    load_weights,
    quantisation,
    to_device,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INDUCED = "sink_heads.json"  # left by the lab beside a model, with the heads it supervised


@dataclass(repr=False)
class Subject:
    """A model under observation: weights, tokenizer, anatomy and where they came from.

    model      the transformers model, in eval mode
    tokenizer  may be None when prompts are given as token ids
    anatomy    blocks, attention shape and layer types (see `find_anatomy`)
    identity   id, revision, architecture, weights_sha256, parameters, dtype, device
    """

    model: Any
    tokenizer: Any
    anatomy: Anatomy
    identity: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Which model, how deep, in what numbers and where."""
        return (
            f"<sinkscope.Subject {self.identity.get('id', 'in memory')}: "
            f"{type(self.model).__name__}, {len(self.anatomy.blocks)} blocks, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}>"
        )

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings, where token ids must be put."""
        return input_device(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Floating dtype of the embeddings, taken as the dtype of the model."""
        return self.model.get_input_embeddings().weight.dtype

    @property
    def max_length(self) -> int | None:
        """Longest sequence the positions allow, or None where the model sets no limit."""
        config = self.model.config.get_text_config(decoder=True)
        for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
            limit = getattr(config, name, None)
            if isinstance(limit, int) and limit > 0:
                return limit
        return None

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any = None, name: str = "in memory") -> Subject:
        """Wrap a model (and tokenizer) that is already in memory.

        Raises Unsupported when no decoder blocks with attention are found, InputError for what is
        no model of transformers or has no weights.
        """
        refuse_no_model(model, tokenizer)
        model.eval()
        if (getattr(model, "tp_size", None) or 1) > 1:
            make_whole(model)
        anatomy = find_anatomy(model)
        if not is_brought(model):  # what lies on disk was tried when it was put there
            try_out(model, anatomy, name)
        return cls(model, tokenizer, anatomy, identity_of(model, name, None, None))


def load(
    source: str | Path | None = None,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    device_map: str | dict[str, str] | None = None,
    offline: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    gguf_file: str | None = None,
    stream: bool = False,
    tensor_parallel: bool = False,
) -> Subject:
    """Load a local folder, a GGUF file or a Hub id as a Subject.

    source      folder (a LoRA adapter is merged into the base that it names), .gguf file, Hub
                id, or None / "bundled" for the bundled reference model
    gguf_file   name of a GGUF file in that folder or Hub repository, which is unpacked
    dtype       float32 (default), bfloat16 or float16; always explicit, never "auto"
    device_map  passed to transformers (needs accelerate); `device` is then ignored
    stream      hold one block at a time, read from the folder when it runs (`subject.streamed`)
    tensor_parallel  spread every block over the processes of torchrun (`subject.spread`)
    Only safetensors are read unless `allow_pickle`; no remote code unless `trust_remote_code`.

    Raises InputError (missing, corrupt, pickle-only or NaN weights), Unsupported (not a decoder),
    OutOfResources (memory).
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    refuse_two_places(device, device_map, stream, tensor_parallel)
    place = find_place(source, revision, offline, trust_remote_code, gguf_file)
    if stream:
        return _streamed(place, dtype, device)
    adapter = adapter_at(place)
    if adapter is not None:
        if tensor_parallel:
            raise InputError("An adapter is not merged into spread weights: merge it first.")
        return _merged(
            adapter, place.name, dtype=dtype, device=device, device_map=device_map,
            offline=offline, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code,
        )  # fmt: skip
    spread = spreading() if tensor_parallel else None
    read = _read(place, dtype, device_map, allow_pickle, spread)
    return _tried(place, read, revision, None if device_map else device, spread=tensor_parallel)


def _tried(
    place: Place, read: _Read, revision: str | None, device: str | None, *, spread: bool
) -> Subject:
    """What was read as a subject, once it has run. device: where it is put; None: where it is."""
    model, text_only = text_decoder(read.model)
    if spread:
        make_whole(model)
        read.said.append(f"Its weights were spread over {model.tp_size} processes.")
    elif device is not None:
        model = to_device(model, device)
    refuse_no_finite(model.eval(), place.where)
    anatomy = find_anatomy(model)
    try_out(model, anatomy, place.where)
    identity = identity_of(model, place.name, None if place.local else revision, place.file)
    identity |= {} if read.weights is None else {"weights": read.weights}
    say(identity, text_only, place.said, *read.said, *_how_stored(place, read, identity["dtype"]))
    return Subject(model, read.tokenizer, anatomy, identity)


@dataclass
class _Read:
    """What transformers made of a place.

    said     what of it was read otherwise than it lies there
    stored   how config.json says that the weights are quantised; tensors: of their headers
    weights  the format of a GGUF file
    """

    model: Any
    tokenizer: Any
    said: list[str]
    stored: Any
    tensors: dict[str, Any]
    weights: dict[str, Any] | None


def _read(
    place: Place,
    dtype: str,
    device_map: str | dict[str, str] | None,
    allow_pickle: bool,
    spread: dict[str, Any] | None,
) -> _Read:
    """Check what lies there, and read it. spread: options of tensor parallelism, or None."""
    where, common, packed = place.where, place.common, place.packed
    whole = place.local and packed is None
    room_for = None if device_map or spread else dtype
    if whole:
        trusted = common["trust_remote_code"]
        check_folder(place.path, allow_pickle=allow_pickle, trust_remote_code=trusted)
    with hub_forbidden(common["local_files_only"]):
        weights = gguf.weight_format(packed, common) if packed else None
        with rope_warnings() as rope:
            config = load_config(where, common)
        plain = config.to_dict()
        stored = quantisation(config)  # loading may take the entry away
        tensors = (check_weights(place.path, plain, room_for) or {}) if whole else {}
        if not whole:
            refuse_too_large(plain, None, room_for, where)
        if tensors and not stored and room_for:
            refuse_large_layout(config, tensors, room_for, where)
        options = {**common, **gguf.weight_options(packed), **(spread or {})}
        model, unused = load_weights(
            where, config, options, DTYPES[dtype], device_map, allow_pickle
        )
        tokenizer = load_tokenizer(where, common, place.local)
    if packed is not None:
        model = gguf.as_plain(model)
    odd = odd_settings(model, plain.get("architectures"), rope)
    return _Read(model, tokenizer, [unused, odd], stored, tensors, weights)


def _how_stored(place: Place, read: _Read, dtype: str) -> list[str]:
    """How the weights lay in their files, and whether the lab left word of how they came about."""
    if read.weights is not None:
        said = [f"Its weights were unpacked from GGUF ({read.weights['label']}) to {dtype}."]
    else:
        half = dtype == "float32" and rounds_input(read.model)
        said = [stored_as(read.stored, read.tensors, dtype, half)]
    if place.is_folder and (place.path / WHOLE).is_file() and (place.path / INDEX).is_file():
        said.append(f"Beside {WHOLE}, which was read, lies an index of shards.")
    if place.local and _supervised_heads(place.path):
        said.append(
            "The sink of this model was induced: an auxiliary loss supervised heads for it."
        )
    return said


def _streamed(place: Place, dtype: str, device: str) -> Subject:
    """A folder whose blocks stay on disk, and are read when they run."""
    folder = place.path
    if not place.is_folder:
        raise InputError(f"{folder} is no folder of safetensors; only those are read in blocks.")
    if adapters.find_adapter(folder) is not None:
        raise InputError("An adapter is not merged into weights on disk: merge it first.")
    check_folder(folder)
    config = load_config(str(folder), LOCAL)
    check_weights(folder, config.to_dict(), None)
    model, plan, _ = streamed_model(folder, config, DTYPES[dtype], torch.device(device))
    identity = planned_identity(plan, folder.name, header_hash(folder), dtype, device, config)
    say(
        identity,
        "Its blocks were read from disk one at a time, each whenever it ran; its hash is of the "
        "names, shapes and places of its weights, not of their values.",
    )
    tokenizer = load_tokenizer(str(folder), LOCAL, True)
    return Subject(model, tokenizer, plan.anatomy, identity)


def _merged(adapter: adapters.Adapter, name: str, **options: Any) -> Subject:
    """The base that an adapter names, loaded with the adapter merged into it."""
    try:
        base = load(adapter.base, revision=adapter.config.get("revision"), **options)
    except InputError as error:
        raise InputError(
            f"{adapter.folder} is a PEFT adapter, and its base {adapter.base!r} cannot be loaded "
            f"here: {error} With the base at hand, {adapters.HELP}."
        ) from None
    if any(p.device.type == "meta" for p in base.model.parameters()):
        raise InputError("An adapter is not merged into weights on disk: use no device map.")
    if any(map(is_packed, base.model.modules())):
        raise InputError(
            f"{adapter.folder} is a PEFT adapter, and its base {adapter.base!r} is quantised, so "
            "that the sum would be rounded: name its original in adapter_config.json."
        )
    unchanged = merge(base.model, adapter)
    refuse_no_finite(base.model, str(adapter.folder))
    base.identity["id"], base.identity["adapter_of"] = name, base.identity["id"]
    base.identity["weights_sha256"] = adapter.sha256(base.identity["weights_sha256"])
    say(base.identity, f"An adapter was merged in memory into {adapter.base}.", unchanged)
    base.tokenizer = load_tokenizer(str(adapter.folder), LOCAL, True) or base.tokenizer
    return base


def _supervised_heads(folder: Path) -> bool:
    """Whether the lab supervised heads of this model to sink."""
    file = folder / INDUCED
    if not file.is_file():
        return False
    try:
        return bool(json.loads(file.read_text(encoding="utf-8"))["supervised_heads"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{file} does not say which heads were supervised ({error!r}).") from None
