"""Models whose sink is known by construction, saved as ordinary Hugging Face folders.

`sinkscope.known.check` measures whether a model does what its truth says.
"""

from sinkscope.known.constructed.build import build_in_memory, build_model
from sinkscope.known.constructed.choices import MECHANISMS, NOISE_LEVELS
from sinkscope.known.constructed.spec import Spec, draw_spec
from sinkscope.known.constructed.truth import Truth, load_truth

__all__ = [
    "MECHANISMS",
    "NOISE_LEVELS",
    "Spec",
    "Truth",
    "build_in_memory",
    "build_model",
    "draw_spec",
    "load_truth",
]
