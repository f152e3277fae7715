"""Configuration, weights and tokenizer as transformers loads them; failures in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sinkscope.errors import InputError, OutOfResources, Unsupported
from sinkscope.subject import checkpoint_keys as keys


def load_config(where: str, common: dict) -> Any:
    """The configuration of a causal language model. Raises InputError and Unsupported."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from sinkscope.subject.variants.configuration import SinkscopeLabConfig  # registers itself

    try:
        config = AutoConfig.from_pretrained(where, **common)
    except OSError as error:
        raise InputError(f"{where} cannot be loaded: {first_line(error)}") from None
    except (ValueError, KeyError, TypeError) as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{where} needs its own code; pass --trust-remote-code if you trust it."
            ) from None
        raise Unsupported(
            f"{where}: the configuration is not one this transformers knows ({first_line(error)})"
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
    blocks: int | None = None,
) -> tuple[Any, str]:
    """Load weights into `model_class` (None: the causal model); none of its own may be missing.

    blocks  of the full model, where `model_class` holds only its first blocks

    Returns the model and what is to be said of weights that it does not use, or "".
    """
    from transformers import AutoModelForCausalLM

    options = {
        "config": config,
        "dtype": dtype,
        "output_loading_info": True,
        "use_safetensors": None if allow_pickle else True,
        **common,
        **({"device_map": device_map} if device_map else {}),
    }
    kind = model_class or AutoModelForCausalLM
    model, info = _from_pretrained(kind, where, options)
    mapping = keys.key_mapping(info["missing_keys"], info["unexpected_keys"])
    if mapping:
        model, info = _from_pretrained(kind, where, {**options, "key_mapping": mapping})
    note = keys.refuse_or_tell(where, model, info["unexpected_keys"], blocks)
    missing = sorted(info["missing_keys"])
    if missing:
        raise InputError(
            f"{where} lacks {len(missing)} weights, such as {missing[0]}; a model "
            "with random parts would give meaningless numbers."
        )
    if mapping:
        note = f"Names of training wrappers were taken off its weights' names. {note}".strip()
    return model, note


def _from_pretrained(kind: Any, where: str, options: dict) -> tuple[Any, dict[str, Any]]:
    """transformers' own loading, with its failures in one sentence: (model, what it found)."""
    from safetensors import SafetensorError

    try:
        return kind.from_pretrained(where, **options)
    except SafetensorError as error:
        raise InputError(f"{where}: the safetensors file is corrupt ({error}).") from None
    except (torch.OutOfMemoryError, MemoryError):
        raise OutOfResources(f"Not enough memory to load {where}; try --dtype bfloat16.") from None
    except OSError as error:
        raise InputError(f"{where} cannot be loaded: {first_line(error)}") from None
    except (ValueError, RuntimeError, KeyError, ImportError) as error:
        raise InputError(f"{where} cannot be loaded: {first_line(error)}") from None


def to_device(model: Any, device: str) -> Any:
    """The model on a device. Raises InputError and OutOfResources."""
    try:
        return model.to(device)
    except torch.OutOfMemoryError:
        raise OutOfResources(f"The model does not fit on {device}; try --dtype bfloat16.") from None
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"Device {device!r} cannot be used: {first_line(error)}") from None


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
        raise InputError(f"{where}: the tokenizer cannot be loaded: {first_line(error)}") from None
    except Exception as error:
        # the Rust tokenizers library raises bare Exception on a damaged file
        if type(error) is not Exception:
            raise
        raise InputError(f"{where}: the tokenizer is damaged: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """The first line of an error's text, as the end of a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".") + "."
