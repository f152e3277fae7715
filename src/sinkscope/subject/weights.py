"""Configuration, weights and tokenizer as transformers loads them; failures in one sentence."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sinkscope.errors import (
    InputError,
    OutOfResources,
    Unsupported,
    first_line,
    is_interrupt,
    is_out_of_memory,
)
from sinkscope.subject import checkpoint_keys as keys
from sinkscope.subject.blame import named_value
from sinkscope.subject.folder import refuse_foreign_code
from sinkscope.subject.towers import sees_images

# how a folder is loaded that is at hand
LOCAL = {"revision": None, "local_files_only": True, "trust_remote_code": False}
SAMPLE = "Attention is paid to the first token, whatever it is.\n"
MOST_TOKENS = 20  # tokens a character of the sample: bytes of a character, and room
_UNKNOWN = re.compile("does not recognize|[Uu]nrecognized|model.type|architecture")
_NO_MEMORY = "Not enough memory to load {}; try --dtype bfloat16."


def load_config(where: str, common: dict) -> Any:
    """The configuration of a causal language model. Raises InputError and Unsupported."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from sinkscope.subject.variants.configuration import SinkscopeLabConfig  # registers itself

    try:
        config = AutoConfig.from_pretrained(where, **common)
    except OSError as error:
        if common["local_files_only"] and not Path(where).exists():
            raise InputError(
                f"No folder {where!r} here, nor a downloaded model of that name, and offline "
                "nothing is fetched."
            ) from None
        raise InputError(f"{where} cannot be loaded: {first_line(error)}") from None
    except Exception as error:  # noqa: BLE001 - all that transformers makes of a wrong value
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{where} needs its own code; pass --trust-remote-code if you trust it."
            ) from None
        if isinstance(error, (ValueError, KeyError)) and _UNKNOWN.search(str(error)):
            raise Unsupported(
                f"{where}: the configuration is not one this transformers knows "
                f"({first_line(error)})"
            ) from None
        raise InputError(
            f"{where}: config.json will not do: {named_value(where, error)}{first_line(error)}"
        ) from None
    refuse_foreign_code(config.to_dict(), where)
    if isinstance(config, SinkscopeLabConfig):
        import sinkscope.subject.variants.modeling  # noqa: F401  registers the model

        return config
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not known and not sees_images(config) and not hasattr(config, "auto_map"):
        raise Unsupported(
            f"{where} is a {config.model_type!r} model, not a causal language model"
            + _and_inside(config)
        )
    return config


def _and_inside(config: Any) -> str:
    """What can be done with a model that is not causal as a whole, as the end of a sentence."""
    if getattr(config, "is_encoder_decoder", False):
        return ": its decoder reads an encoder beside the text before it."
    if not hasattr(config, "text_config"):
        return "."
    return (
        "; a text decoder inside it can be looked at with "
        "sinkscope.Subject.from_model(model.language_model, tokenizer)."
    )


def load_weights(
    where: str,
    config: Any,
    common: dict,
    dtype: torch.dtype,
    device_map: str | dict[str, str] | None,
    allow_pickle: bool,
    model_class: Any = None,
    part: keys.Part = None,
) -> tuple[Any, str]:
    """Load weights into `model_class` (None: the causal model); none of its own may be missing.

    part  how many first blocks of how many, where `model_class` does not hold all

    Returns the model and what is to be said of weights that it does not use, or "".
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    refuse_unknown_format(where, config)
    _plain_kernels(where, config)
    options = {
        "config": config,
        "dtype": dtype,
        "output_loading_info": True,
        "use_safetensors": None if allow_pickle else True,
        **common,
        **({"device_map": device_map} if device_map else {}),
    }
    causal = AutoModelForImageTextToText if sees_images(config) else AutoModelForCausalLM
    kind = model_class or causal
    model, info = _from_pretrained(kind, where, options)
    mapping = keys.key_mapping(info["missing_keys"], info["unexpected_keys"])
    if mapping:
        model, info = _from_pretrained(kind, where, {**options, "key_mapping": mapping})
    note = keys.refuse_or_tell(where, model, info["unexpected_keys"], part)
    keys.refuse_missing(where, config, info["missing_keys"])
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
    except OSError as error:
        raise InputError(f"{where} cannot be loaded: {first_line(error)}") from None
    except ImportError as error:
        method, why = quantisation(options["config"]), first_line(error)
        if not method:
            raise InputError(f"{where} cannot be loaded: {why}") from None
        raise InputError(
            f"{where} is quantised ({method}); reading it needs what is not here: {why}"
        ) from None
    except NotImplementedError as error:
        raise Unsupported(f"{where} cannot be loaded: {first_line(error)}") from None
    except Exception as error:  # as above
        if is_out_of_memory(error):
            raise OutOfResources(_NO_MEMORY.format(where)) from None
        if "ignore_mismatched_sizes" in str(error) and "ignore_mismatched_sizes" not in options:
            _, info = _from_pretrained(kind, where, {**options, "ignore_mismatched_sizes": True})
            keys.refuse_other_shapes(where, info["mismatched_keys"])
        if not kind.__name__.startswith("Auto") and isinstance(error, AttributeError):
            raise  # a class of the caller's own, who knows what that means
        if "weights_only" in str(error):
            raise InputError(
                f"{where}: its pickle holds more than tensors; what it would run is not run here."
            ) from None
        method = quantisation(options["config"])
        raise InputError(
            f"{where} {f'is quantised ({method}) and ' if method else ''}cannot be loaded: "
            f"{named_value(where, error)}{first_line(error)}"
        ) from None


def quantisation(config: Any) -> str:
    """Name of the method by which the weights are stored; "" where they are plain."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return ""
    method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
    return str(getattr(method, "value", method))


# of gptqmodel, for a CPU: the others are compiled when they first run, and round more
KERNELS = {"gptq": "torch", "awq": "torch_awq"}


def _plain_kernels(where: str, config: Any) -> None:
    """See that what reads GPTQ and AWQ is there, and that on a CPU it multiplies plainly."""
    held, method = getattr(config, "quantization_config", None), quantisation(config)
    if method not in KERNELS or not isinstance(held, dict):
        return
    needs = ["gptqmodel", *(["optimum"] if method == "gptq" else [])]
    if missing := [name for name in needs if find_spec(name) is None]:
        raise InputError(
            f"{where} is quantised ({method}); reading it needs what is not here: "
            f"pip install {' '.join(missing)}."
        )
    if not torch.cuda.is_available() and held.get("backend") in (None, "auto", "autoawq"):
        held["backend"] = KERNELS[method]


def refuse_unknown_format(where: str, config: Any) -> None:
    """Refuse a quantisation that transformers does not know, and so would read as plain weights."""
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    method = quantisation(config)
    if method in ("", "None") and getattr(config, "quantization_config", None) is not None:
        raise InputError(
            f"{where}: quantization_config in config.json has no quant_method, so that nobody "
            "knows how its weights are stored."
        )
    if method and not any(
        name == method or name.startswith(f"{method}_") for name in AUTO_QUANTIZER_MAPPING
    ):
        raise Unsupported(
            f"{where} is quantised by {method!r}, which this transformers cannot read."
        )


def to_device(model: Any, device: str) -> Any:
    """The model on a device. Raises InputError and OutOfResources."""
    if getattr(model, "is_quantized", False) and str(model.device) == device:
        return model  # packed weights refuse to be moved, even to where they are
    try:
        return model.to(device)
    except Exception as error:  # noqa: BLE001 - all that a driver says
        if is_out_of_memory(error):
            raise OutOfResources(
                f"The model does not fit on {device}; try --dtype bfloat16."
            ) from None
        raise InputError(f"Device {device!r} cannot be used: {first_line(error)}") from None


def load_tokenizer(where: str, common: dict, local: bool) -> Any:
    """The tokenizer, or None where a folder holds none. Raises InputError for a damaged one."""
    from transformers import AutoTokenizer

    if "gguf_file" in common:
        local = False  # the tokenizer is in the file
    names = (
        "tokenizer.json",
        "tokenizer.model",
        "spiece.model",
        "sentencepiece.bpe.model",
        "vocab.json",
        "vocab.txt",
        "tokenizer_config.json",
        "tekken.json",
    )
    own = Path(where) / "tekken.json"
    if local and own.is_file() and not any((Path(where) / name).is_file() for name in names[:6]):
        from transformers.utils import is_mistral_common_available

        if not is_mistral_common_available():
            raise InputError(
                f"{own} is Mistral's own tokenizer file; reading it needs a package: "
                "pip install mistral-common."
            )
    if local and not any((Path(where) / name).is_file() for name in names):
        return None  # token-id prompts still work; text prompts say what is missing
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **common)
        grown = len(tokenizer(SAMPLE, add_special_tokens=False)["input_ids"])
        tokenizer.decode([0])
    except BaseException as error:  # the library in Rust panics, which is no Exception
        if is_interrupt(error):
            raise
        if "custom code" in str(error):
            raise InputError(
                f"{where}: its tokenizer is code; pass --trust-remote-code if you trust it."
            ) from None
        raise InputError(f"{where}: the tokenizer cannot be loaded: {first_line(error)}") from None
    if grown > MOST_TOKENS * len(SAMPLE):
        raise InputError(
            f"{where}: the tokenizer makes {grown:,} tokens of {len(SAMPLE)} characters."
        )
    return tokenizer
