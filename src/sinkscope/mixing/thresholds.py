"""Every bound that decides what `mix` says, each with its reason; they travel with the result."""

from __future__ import annotations

USED = 0.01
PREDICTIONS = 0.05
NO_DIFFERENT = 0.01
REACHED = 0.05
ROUNDING = 1e-4
CONTROL_KEEPS = 0.9

REASONS = {
    "USED": "nats a token, one per cent of perplexity: about what rounding a model to half "
    "precision costs; published cases lie far on either side (perplexity times 1249, and times "
    "1.00, in two models of one size that both sink)",
    "PREDICTIONS": "nats of KL a token from which the predictions change though the loss does not; "
    "a change that costs USED in the mean moves the distribution by about as much, so several "
    "times that is a change of its own",
    "NO_DIFFERENT": "relative change of the spread: an interval that stays within says no "
    "difference",
    "REACHED": "relative change of a stream from which a position counts as reached",
    "ROUNDING": "relative change of the spread below which it is rounding",
    "CONTROL_KEEPS": "part of the sink that the control of a circuit cut must leave; below, it is "
    "a second cut and is named as such",
}
