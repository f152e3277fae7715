"""Models that see images: their text decoder is looked at, on text alone."""

from __future__ import annotations

import sys
from typing import Any

import torch

from sinkscope.errors import Unsupported


def sees_images(config: Any) -> bool:
    """Whether a configuration is of a model of images and text that has no causal class."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as IMAGES,
    )

    return config.model_type in IMAGES and config.model_type not in CAUSAL


def text_decoder(model: Any) -> tuple[Any, str]:
    """The model that is looked at, and what is to be said of it, or "".

    A model whose decoder stands in its own file runs on text as it is. Where the decoder is another
    family's, it is put into that family's causal class with the head of the whole.
    """
    if not sees_images(model.config):
        return model, ""
    said = f"It is a {model.config.model_type} model: its text decoder is looked at, on text alone."
    decoder = model.get_decoder()
    if hasattr(sys.modules[type(decoder).__module__], "eager_attention_forward") and (
        type(decoder).__module__ == type(model).__module__
    ):
        return model, said
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(decoder.config)]
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            whole = causal(decoder.config)
    except KeyError:
        whole = None
    if whole is None or type(whole.base_model) is not type(decoder):
        raise Unsupported(
            f"The text decoder of a {model.config.model_type!r} model cannot be taken out; "
            "sinkscope.Subject.from_model(model.language_model, tokenizer) looks at it without "
            "its head."
        )
    setattr(whole, whole.base_model_prefix, decoder)
    whole.set_output_embeddings(model.get_output_embeddings())
    return whole.eval(), said
