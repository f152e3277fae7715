"""What to construct: the specification and its sampler."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.checked import refuse_beyond
from sinkscope.errors import InputError
from sinkscope.known.constructed import choices
from sinkscope.known.constructed.choices import (
    BLOCKS,
    FIRST_ONLY,
    MECHANISMS,
    NOISE_LEVELS,
    ROUTED,
    SPLIT,
)
from sinkscope.known.constructed.codes import LARGEST, LENGTH

SMALLEST_VOCABULARY = 258  # 256 bytes, <s>, </s>
LONGEST = 512  # positions up to which the truth is promised


@dataclass(frozen=True)
class Spec:
    """A model to construct.

    mechanism   one of MECHANISMS
    family      llama, mixtral, gpt2 or gpt_oss
    seed        decides every random weight and choice
    width       residual channels, at least 96
    depth       blocks
    heads       query heads in each block
    key_heads   key/value heads; heads is a multiple of it
    head_size   16 or more
    vocab       token ids, 258 to 1054
    experts     experts in each block, two of which are active; 1 in the dense families
    blocks      blocks whose MLP amplifies, in order; with phases, those that write and those that
                take back in turn
    from_block  first block whose heads read the sink
    readers     reading heads in each block from `from_block` on
    writers     neurons that write the sink direction, in each amplifying block
    channels    channels of the sink direction, an even number
    spike       norm of what is written, over the norm of the stream it is written to
    noise       size of what everything outside the circuit writes, over that of the embedding
    marked      position ids that the position embedding marks
    positions   position embeddings there are
    share       late share on P0 that the reading heads are made for, at 64 tokens; 1 is all of it
    carry       what all reading heads together pass on of the tokens they attend to, over the size
                of a token's code; never drawn: 0 unless asked for, the heads then carry nothing
    """

    mechanism: str
    family: str
    seed: int
    width: int
    depth: int
    heads: int
    key_heads: int
    head_size: int
    vocab: int
    experts: int
    blocks: tuple[int, ...]
    from_block: int
    readers: int
    writers: int
    channels: int
    spike: float
    noise: float
    marked: tuple[int, ...] = ()
    positions: int = LONGEST
    share: float = 1.0
    carry: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        fields = dataclasses.asdict(self)
        return fields | {"blocks": list(self.blocks), "marked": list(self.marked)}


def draw_spec(mechanism: str, seed: int = 0, **overrides: Any) -> Spec:
    """Draw a specification; `overrides` fix any of its fields.

    The family is drawn too, unless it is given. Equal arguments give equal specifications.
    Raises InputError for an unknown mechanism, a field that does not exist, a family that cannot
    hold the mechanism, or sizes that do not fit each other.
    """
    if mechanism not in MECHANISMS:
        raise InputError(f"mechanism {mechanism!r} is not one of {', '.join(MECHANISMS)}.")
    refuse_beyond("the seed", seed)
    known = {field.name for field in dataclasses.fields(Spec)} - {"mechanism", "seed"}
    if unknown := sorted(set(overrides) - known):
        raise InputError(f"a specification has no field {unknown[0]!r}.")
    draw = _Draw(seed, overrides)
    family = draw("family", MECHANISMS[mechanism])
    head_size = draw("head_size", (16, 32))
    width = draw("width", (96, 128, 160))
    counts = tuple(n for n in (4, 6, 8) if width % n == 0)
    heads = draw("heads", (width // head_size,) if family == "gpt2" else counts)
    own_keys = family == "gpt2" or mechanism in choices.OWN_KEYS
    groups = (heads,) if own_keys else (heads, heads // 2)
    depth, blocks, from_block = _places(mechanism, draw)
    spec = Spec(
        mechanism=mechanism,
        family=family,
        seed=seed,
        width=width,
        depth=depth,
        heads=heads,
        key_heads=draw("key_heads", groups),
        head_size=head_size,
        vocab=draw("vocab", choices.VOCABULARIES.get(mechanism, (258, 320, 512, 1024))),
        experts=draw("experts", (4, 6) if family in ROUTED else (1,)),
        blocks=blocks,
        from_block=from_block,
        readers=draw("readers", _readers(mechanism, heads)),
        writers=draw("writers", (1, 2, 3, 4)),
        channels=draw("channels", (4,) if mechanism in SPLIT else (2, 4)),
        spike=draw("spike", choices.SPIKES.get(mechanism, (15.0, 30.0, 60.0))),
        noise=draw("noise", NOISE_LEVELS),
        marked=draw("marked", choices.MARKED.get(mechanism, ((),))),
        positions=draw("positions", choices.POSITIONS.get(mechanism, (LONGEST,))),
        share=draw("share", (0.12, 0.16, 0.2, 0.25) if mechanism == "p0-weak" else (1.0,)),
        carry=overrides.get("carry", 0.0),
    )
    check_spec(spec)
    return spec


class _Draw:
    """Picks from choices by seed; what was overridden is not drawn, and shifts no other draw."""

    def __init__(self, seed: int, overrides: dict[str, Any]):
        self.generator = torch.Generator().manual_seed(seed)
        self.overrides = overrides

    def __call__(self, name: str, choices: tuple) -> Any:
        # below 1 << 32 versions of torch take another number of bits from the generator
        drawn = int(torch.randint(1 << 32, (), generator=self.generator)) % (1 << 30)
        return self.overrides.get(name, choices[drawn % len(choices)])


def _readers(mechanism: str, heads: int) -> tuple[int, ...]:
    if mechanism == "p0-few-heads":
        return (1,)
    if mechanism == "p0-weak":
        return (heads // 2, heads)
    return tuple(range(1, max(2, heads // 2 + 1)))


def _places(mechanism: str, draw: _Draw) -> tuple[int, tuple[int, ...], int]:
    """Depth, amplifying blocks and first reading block."""
    blocks = draw("blocks", BLOCKS.get(mechanism, ((),)))
    done = blocks[:1] if mechanism in FIRST_ONLY else blocks
    start = draw("from_block", (max(done, default=0) + 1,))
    more = (5, 6, 7) if mechanism == "p0-few-heads" else (2, 3, 4)
    depth = draw("depth", tuple(max((*blocks, start)) + extra for extra in more))
    return depth, tuple(blocks), start


def check_spec(spec: Spec) -> None:
    """Raise InputError where a specification cannot be built."""
    gpt2 = spec.family == "gpt2"
    fits_gpt2 = spec.width == spec.heads * spec.head_size and spec.key_heads == spec.heads
    families = MECHANISMS[spec.mechanism]
    rules = [
        (spec.family in families, f"{spec.mechanism} can be built in {', '.join(families)} only."),
        (spec.width >= 96, "width must be at least 96."),
        (spec.width % spec.heads == 0, "width must be a multiple of heads."),
        (spec.heads % spec.key_heads == 0, "heads must be a multiple of key_heads."),
        (spec.head_size % 2 == 0, "head_size must be even."),
        (spec.key_heads * spec.head_size >= LENGTH, f"key_heads × head_size must reach {LENGTH}."),
        (fits_gpt2 or not gpt2, "gpt2 needs width = heads × head_size and key_heads = heads."),
        (
            SMALLEST_VOCABULARY <= spec.vocab <= LARGEST
            or (
                spec.vocab in choices.SMALL_VOCABULARIES and spec.mechanism == "p0-small-vocabulary"
            ),
            "vocab must be between 258 and 1054.",
        ),
        (max((*spec.blocks, spec.from_block)) < spec.depth, "blocks must lie below depth."),
        (
            len(spec.blocks) in {len(each) for each in BLOCKS.get(spec.mechanism, ((),))},
            f"{spec.mechanism} has another number of amplifying blocks.",
        ),
        (list(spec.blocks) == sorted(set(spec.blocks)), "blocks must rise."),
        (
            min((*spec.blocks, 1)) >= (spec.mechanism != "query-bias"),
            "only query-bias amplifies in block 0: elsewhere block 0 recognises.",
        ),
        (
            spec.from_block > max((*spec.blocks[: 1 if spec.mechanism in FIRST_ONLY else None], 0)),
            "from_block must lie behind the amplifying blocks.",
        ),
        (spec.channels in (2, 4, 6, 8), "channels must be 2, 4, 6 or 8."),
        (
            spec.channels >= 4 or spec.mechanism not in SPLIT,
            f"{spec.mechanism} needs 4 channels or more.",
        ),
        (1 <= spec.readers <= spec.heads, "readers must be between 1 and heads."),
        (1 <= spec.writers <= 8, "writers must be between 1 and 8."),
        ((spec.experts >= 3) == (spec.family in ROUTED), "routed families need 3 experts or more."),
        (0 <= spec.noise <= NOISE_LEVELS[-1], f"noise must be between 0 and {NOISE_LEVELS[-1]}."),
        (0 <= spec.carry <= 1, "carry must be between 0 and 1."),
    ]
    for holds, message in rules:
        if not holds:
            raise InputError(message)
