"""Load a causal language model safely and say exactly what was loaded."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sinkscope.errors import InputError, OutOfResources, Unsupported
from sinkscope.subject import gguf
from sinkscope.subject.anatomy import Anatomy, find_anatomy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BUNDLED = "bundled"
INDUCED = "sink_heads.json"  # left by the lab beside a model, with the heads it asked to sink
SIGMOID = (
    "Its attention is a sigmoid, whose rows do not add up to one: shares are taken after each row "
    "was divided by its sum."
)
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass
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

    @property
    def device(self) -> torch.device:
        """Device of the input embeddings, where token ids must be put."""
        embedding = self.model.get_input_embeddings()
        if embedding.weight.device.type == "meta":  # offloaded; accelerate brings it in to run
            return torch.device(embedding._hf_hook.execution_device)
        return embedding.weight.device

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

        Raises Unsupported when no decoder blocks with attention are found.
        """
        model.eval()
        return cls(model, tokenizer, find_anatomy(model), _identity(model, name, None, None))


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
) -> Subject:
    """Load a local folder, a GGUF file or a Hub id as a Subject.

    source      folder, .gguf file, Hub id, or None / "bundled" for the bundled reference model
    gguf_file   name of a GGUF file in that folder or Hub repository, which is unpacked
    dtype       float32 (default), bfloat16 or float16; always explicit, never "auto"
    device_map  passed to transformers (needs accelerate); `device` is then ignored
    Only safetensors are read unless `allow_pickle`; no remote code unless `trust_remote_code`.

    Raises InputError (missing, corrupt, pickle-only or NaN weights), Unsupported (not a decoder),
    OutOfResources (memory).
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    path = bundled_model() if source in (None, BUNDLED) else Path(str(source)).expanduser()
    packed = gguf.find_gguf(path, gguf_file)
    local = path.exists()
    if not local:
        _refuse_bad_id(str(source), offline)
    where: str = packed.where if packed else str(path) if local else str(source)
    common = {
        "revision": revision,
        "local_files_only": offline or local,
        "trust_remote_code": trust_remote_code,
        **gguf.load_options(packed),
    }
    if local and packed is None:
        check_folder(path, allow_pickle, trust_remote_code)
    weights = gguf.weight_format(packed, common) if packed else None
    config = load_config(where, common)
    options = {**common, **gguf.weight_options(packed)}
    model = load_weights(where, config, options, DTYPES[dtype], device_map, allow_pickle)
    if packed is not None:
        model = gguf.as_plain(model)
    if device_map is None:
        model = _to_device(model, device)
    refuse_nan(model, where)
    tokenizer = load_tokenizer(where, common, local)
    model.eval()
    name = BUNDLED if source in (None, BUNDLED) else (path.name if local else str(source))
    file = packed.path if packed else path if local else None
    identity = _identity(model, name, revision, file)
    if weights is not None:
        identity["weights"] = weights
        unpacked = (
            f"Its weights were unpacked from GGUF ({weights['label']}) to {identity['dtype']}."
        )
        identity["note"] = " ".join(filter(None, [unpacked, identity.get("note")]))
    if local and _asked_heads(path):
        induced = "The sink of this model was induced: training asked some heads for it."
        identity["note"] = " ".join(filter(None, [induced, identity.get("note")]))
    return Subject(model, tokenizer, find_anatomy(model), identity)


def _asked_heads(folder: Path) -> bool:
    """Whether the lab asked heads of this model for a sink; without a demand it asks none."""
    file = folder / INDUCED
    if not file.is_file():
        return False
    try:
        return bool(json.loads(file.read_text(encoding="utf-8"))["asked_heads"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} does not say which heads were asked ({error!r}).") from None


def bundled_model() -> Path:
    """Folder of the reference model that ships with the package."""
    return Path(__file__).resolve().parent.parent / "assets" / "reference-model"


def _refuse_bad_id(source: str, offline: bool) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if source.startswith((".", "/", "~")) or (
        os.sep in source.rstrip("/") and source.count("/") > 1
    ):
        raise InputError(f"No such folder: {source}.")
    try:
        validate_repo_id(source)
    except HFValidationError:
        raise InputError(f"{source!r} is neither a folder nor a valid Hub id.") from None
    if not offline and os.environ.get("HF_HUB_OFFLINE") == "1":
        raise InputError(f"No folder {source!r} here and HF_HUB_OFFLINE=1 forbids downloading it.")


def check_folder(path: Path, allow_pickle: bool, trust_remote_code: bool) -> None:
    """Refuse a folder without a readable config.json, or without weights that may be read."""
    config_file = path / "config.json"
    if not config_file.is_file():
        raise InputError(f"{path} has no config.json, so it is not a Hugging Face model folder.")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{config_file} cannot be read as JSON ({error}).") from None
    if not isinstance(config, dict):
        raise InputError(f"{config_file} is not a JSON object.")
    if "auto_map" in config and not trust_remote_code and not config.get("model_type"):
        raise InputError(f"{path} needs its own code; pass --trust-remote-code if you trust it.")
    files = [f for f in path.iterdir() if f.is_file()]
    if any(f.suffix == ".safetensors" for f in files):
        return
    pickles = [f.name for f in files if f.suffix in _PICKLE_SUFFIXES]
    if pickles and not allow_pickle:
        raise InputError(
            f"{path} holds only pickle weights ({pickles[0]}), which can run code when loaded; "
            "convert them to safetensors or pass --allow-pickle if you trust the source."
        )
    if not pickles:
        raise InputError(f"{path} holds no weights (no .safetensors file).")


def load_config(where: str, common: dict) -> Any:
    """The configuration of a causal language model. Raises InputError and Unsupported."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from sinkscope.subject.variants.configuration import SinkscopeLabConfig  # registers itself

    try:
        config = AutoConfig.from_pretrained(where, **common)
    except OSError as error:
        raise InputError(f"{where} cannot be loaded: {_first_line(error)}") from None
    except (ValueError, KeyError, TypeError) as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{where} needs its own code; pass --trust-remote-code if you trust it."
            ) from None
        raise Unsupported(
            f"{where}: the configuration is not one this transformers knows ({_first_line(error)})"
        ) from None
    if isinstance(config, SinkscopeLabConfig):
        import sinkscope.subject.variants.modeling  # noqa: F401  registers the model

        return config
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not known and not hasattr(config, "auto_map"):
        raise Unsupported(f"{where} is a {config.model_type!r} model, not a causal language model.")
    return config


def load_weights(
    where: str,
    config: Any,
    common: dict,
    dtype: torch.dtype,
    device_map: str | dict[str, str] | None,
    allow_pickle: bool,
    model_class: Any = None,
) -> Any:
    """Load weights into `model_class` (None: the causal model); none of its own may be missing."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    extra = {"device_map": device_map} if device_map else {}
    loaded: Any
    try:
        loaded = (model_class or AutoModelForCausalLM).from_pretrained(
            where,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=None if allow_pickle else True,
            **common,
            **extra,
        )
    except SafetensorError as error:
        raise InputError(f"{where}: the safetensors file is corrupt ({error}).") from None
    except (torch.OutOfMemoryError, MemoryError):
        raise OutOfResources(f"Not enough memory to load {where}; try --dtype bfloat16.") from None
    except OSError as error:
        raise InputError(f"{where} cannot be loaded: {_first_line(error)}") from None
    except (ValueError, RuntimeError, KeyError, ImportError) as error:
        raise InputError(f"{where} cannot be loaded: {_first_line(error)}") from None
    model, info = loaded
    missing = sorted(info.get("missing_keys") or [])
    if missing:
        raise InputError(
            f"{where} lacks {len(missing)} weights, such as {missing[0]}; a model "
            "with random parts would give meaningless numbers."
        )
    return model


def _to_device(model: Any, device: str) -> Any:
    try:
        return model.to(device)
    except torch.OutOfMemoryError:
        raise OutOfResources(f"The model does not fit on {device}; try --dtype bfloat16.") from None
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"Device {device!r} cannot be used: {_first_line(error)}") from None


def refuse_nan(model: Any, where: str) -> None:
    """Raise InputError where a weight is not finite."""
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta":
            continue  # offloaded by device_map; checked when it is read
        if not torch.isfinite(parameter).all():
            raise InputError(f"{where}: weight {name} holds NaN or infinity.")


def load_tokenizer(where: str, common: dict, local: bool) -> Any:
    """The tokenizer, or None where a folder holds none. Raises InputError for a damaged one."""
    from transformers import AutoTokenizer

    if "gguf_file" in common:
        local = False  # the tokenizer is in the file
    names = (
        "tokenizer.json",
        "tokenizer.model",
        "vocab.json",
        "vocab.txt",
        "tokenizer_config.json",
    )
    if local and not any((Path(where) / name).is_file() for name in names):
        return None  # token-id prompts still work; text prompts say what is missing
    try:
        return AutoTokenizer.from_pretrained(where, **common)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise InputError(f"{where}: the tokenizer cannot be loaded: {_first_line(error)}") from None
    except Exception as error:
        # the Rust tokenizers library raises bare Exception on a damaged file
        if type(error) is not Exception:
            raise
        raise InputError(f"{where}: the tokenizer is damaged: {_first_line(error)}") from None


def _identity(model: Any, name: str, revision: str | None, place: Path | None) -> dict[str, Any]:
    commit = getattr(model.config, "_commit_hash", None)
    return {
        "id": name,
        "revision": commit or revision,
        "architecture": type(model).__name__,
        "weights_sha256": _hash_files(place) if place else _hash_tensors(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "device": str(next(model.parameters()).device),
        **reading_note(model.config),
    }


def reading_note(config: Any) -> dict[str, str]:
    """What must be known of a model to read its results rightly: {"note": ..} or nothing."""
    return {"note": SIGMOID} if getattr(config, "attention", None) == "sigmoid" else {}


def _hash_files(place: Path) -> str:
    """SHA-256 of a weight file, or of a folder's."""
    digest = hashlib.sha256()
    suffixes = (".safetensors", *_PICKLE_SUFFIXES)
    there = [place] if place.is_file() else place.iterdir()
    files = sorted(f for f in there if f.suffix in suffixes and f.is_file())
    chosen = [f for f in files if f.suffix == ".safetensors"] or files or [place]
    for file in chosen:
        with file.open("rb") as handle:
            for block in iter(lambda: handle.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def _hash_tensors(model: Any) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        if tensor.device.type != "meta":
            flat = tensor.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    """The first line of an error's text, as the end of a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".") + "."
