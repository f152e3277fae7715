"""What specifications are drawn from, mechanism by mechanism."""

from __future__ import annotations

ALL = ("llama", "mixtral", "gpt2", "gpt_oss")
ROUTED = ("mixtral", "gpt_oss")
TWO = ("llama", "gpt2")
# Families that can hold each mechanism; the first is what a mechanism is drawn in by name.
MECHANISMS: dict[str, tuple[str, ...]] = {
    "p0-two-block": ALL,
    "p0-deeper": ALL,
    "p0-split": ALL,
    "p0-expert": ROUTED,
    "p0-two-phase": ("llama",),
    "p0-hybrid": ("llama",),
    "bos-token": ALL,
    "position-embedding": ("gpt2",),
    "query-bias": ("gpt2",),
    "learned-sink": ("gpt_oss",),
    "delimiter": ALL,
    "secondary": ALL,
    "norm-unread": ALL,
    "recognised-unamplified": ALL,
    "sink-without-massive": ALL,
    "uniform": ALL,
    "massive-elsewhere": ALL,
    "position-amplified": ("gpt2",),
    "position-several": ("gpt2",),
    "position-full": ("gpt2",),
    "position-periodic": ("gpt2",),
    "position-ramp": ("gpt2",),
    "position-one": ("gpt2",),
    "rotary-distance": ("llama",),
    "p0-and-bos": TWO,
    "p0-or-bos": TWO,
    "p0-and-position": ("gpt2",),
    "p0-weak": ALL,
    "p0-few-heads": ("llama",),
    "p0-part": TWO,
    "p0-head-groups": TWO,
    "p0-suppression": TWO,
    "p0-real-tokens": TWO,
    "p0-small-vocabulary": TWO,
    "p0-spike-before": ALL,
    "p0-spike-after": ALL,
    "p0-unread-writers": ALL,
}
# Choices of amplifying blocks; a mechanism that is not named has none.
BLOCKS: dict[str, tuple[tuple[int, ...], ...]] = {
    "p0-two-block": ((1,),),
    "p0-deeper": ((3,), (4,), (5,), (6,)),
    "p0-split": ((1, 2), (1, 3), (2, 3), (2, 4)),
    "p0-expert": ((1,), (2,)),
    "p0-two-phase": ((1, 3, 4), (1, 3, 5), (1, 4, 5), (1, 5, 7), (2, 4, 6), (2, 5, 6)),
    "p0-hybrid": ((1, 2, 4, 5), (1, 2, 3, 4), (2, 3, 5, 6), (1, 2, 4, 5, 7, 8), (1, 2, 3, 4, 5, 6)),
    "query-bias": ((0,),),
    "delimiter": ((1,), (2,)),
    "secondary": ((1, 4), (1, 5)),
    "norm-unread": ((1,), (3,)),
    "sink-without-massive": ((1,), (2,)),
    "massive-elsewhere": ((1,), (2,)),
    "position-amplified": ((1,), (2,)),
    "position-several": ((), (1,)),
    "position-full": ((1,), (2,)),
    "position-periodic": ((), (1,)),
    "p0-and-bos": ((1,), (2,)),
    "p0-or-bos": ((1,), (2,)),
    "p0-and-position": ((1,), (2,)),
    "p0-weak": ((1,), (2,)),
    "p0-few-heads": ((1,), (3,)),
    "p0-part": ((1,), (2,)),
    "p0-head-groups": ((1, 2), (1, 3), (2, 4)),
    "p0-suppression": ((1,), (2,)),
    "p0-real-tokens": ((1, 2), (1, 3)),
    "p0-small-vocabulary": ((1,), (2,)),
    "p0-spike-before": ((1, 2), (1, 3), (2, 4)),
    "p0-spike-after": ((1, 4), (1, 5), (2, 5)),
    "p0-unread-writers": ((1,), (2,)),
}
# Position ids that the embedding marks.
MARKED: dict[str, tuple[tuple[int, ...], ...]] = {
    "position-amplified": ((0,),),
    "position-several": ((0, 1), (0, 1, 2), (0, 1, 2, 3), tuple(range(8))),
    "position-full": ((0,), (0, 1, 2)),
    "position-periodic": (tuple(range(0, 512, 64)), tuple(range(0, 512, 32))),
    "position-one": ((1,), (2,)),
}
PHASES = ("p0-two-phase", "p0-hybrid")  # their blocks write and take back in turn
FIRST_ONLY = (
    *PHASES,
    "secondary",
    "p0-spike-after",
)  # reading begins behind the first of their blocks
# What is taken back must match what was written, so that a long write leaves much of its noise.
SPIKES = {
    "sink-without-massive": (0.5,),
    **dict.fromkeys(PHASES, (10.0, 12.0, 15.0)),
    **dict.fromkeys(("p0-and-bos", "p0-or-bos", "p0-and-position"), (0.5,)),
}
# Heads that read different things, or nothing, share no key head.
OWN_KEYS = ("p0-and-bos", "p0-and-position", "p0-head-groups", "p0-few-heads", "rotary-distance")
NOISE_LEVELS = (0.0, 0.02, 0.05, 0.1)
SPLIT = ("p0-split", "p0-and-bos", "p0-and-position", "p0-head-groups")  # two halves, each read
SMALL_VOCABULARIES = (40, 48, 64)  # of single characters
VOCABULARIES = {"p0-small-vocabulary": SMALL_VOCABULARIES, "p0-real-tokens": (512, 1024)}
POSITIONS = {"position-full": (64, 66), "position-ramp": (192,)}
