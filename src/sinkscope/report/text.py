"""Text that is safe to show: numbers for people, and strings that came from a model."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from typing import Any

NO_VALUE = "–"
NOTHING = 0.0005  # a relative change that is shown as 0.0
_NAMED = {"\n": "↵", "\t": "⇥"}
# categories whose characters draw nothing, move the cursor or reorder the line (bidi overrides)
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
MORE = 1.2  # of what there was, from which a percentage would read like a mistake


def visible(text: Any, limit: int = 0) -> str:
    """A model-supplied string as one printable line.

    Control and formatting characters, lone surrogates and unassigned code points become visible
    stand-ins, so that no token can move a terminal's cursor, reorder a line or break UTF-8.
    `limit` cuts the result to that many characters (0 keeps all).
    """
    shown = "".join(_stand_in(character) for character in str(text))
    if limit and len(shown) > limit:
        return shown[: limit - 1] + "…"
    return shown


def _stand_in(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    code = ord(character)
    if unicodedata.category(character) not in _HIDDEN:
        return character
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def token_text(text: Any, limit: int = 0) -> str:
    """A token for display: as `visible`, with spaces drawn, since a bare space cannot be seen."""
    return visible(str(text).replace(" ", "␣"), limit) or "∅"


def number_of(measured: Any) -> float | None:
    """The value of a Measured, of its dict form or of a bare number; None where there is none."""
    if isinstance(measured, dict):
        measured = measured.get("value")
    elif hasattr(measured, "value"):
        measured = measured.value
    if isinstance(measured, bool) or not isinstance(measured, (int, float)):
        return None
    return float(measured) if math.isfinite(measured) else None


def bounds_of(measured: Any) -> tuple[float, float] | None:
    """The interval of a Measured or of its dict form, or None."""
    if isinstance(measured, dict):
        low, high = measured.get("low"), measured.get("high")
    else:
        low, high = getattr(measured, "low", None), getattr(measured, "high", None)
    return None if low is None or high is None else (float(low), float(high))


def minus(text: str) -> str:
    """Numbers in a text with the sign of a minus in place of a hyphen."""
    return text.replace("-", "−")


def decimals(value: float | None, digits: int, sign: str = "") -> str:
    """A number with so many decimals; what rounds to zero has no minus. sign: "+" for a change."""
    if value is None:
        return NO_VALUE
    return minus(f"{round(value, digits) + 0.0:{sign}.{digits}f}")


def counted(count: int, what: str) -> str:
    """How many there are: 1 prompt, 2 prompts."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def sublayer(kind: str) -> str:
    """The kind of a sublayer in words."""
    return "MLP" if kind == "mlp" else visible(kind)


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal: 0.0341 is `3.4 %`, which does not break."""
    if value is None or not math.isfinite(value):
        return NO_VALUE
    share = 100 * value
    if 0 < abs(share) < 0.05:
        return "<\u00a00.1\u00a0%" if share > 0 else ">\u00a0−0.1\u00a0%"
    return minus(f"{share:.1f}\u00a0%")


def percent_change(value: float | None) -> str:
    """A relative change as a percentage; 0.0 where less would be shown, as no bound reads right."""
    return percent(0.0 if value is not None and abs(value) < NOTHING else value)


def change_bounds(measured: Any) -> str:
    """The interval of a relative change in whole percent, as `−98 to −55`; empty without one."""
    bounds = bounds_of(measured) or ()
    return minus(" to ".join(f"{round(100 * bound)}" for bound in bounds))


def typeset(sentence: str) -> str:
    """A sentence of a result with numbers as `percent` writes them: -93% is `−93 %`."""
    return re.sub(r"(?<=\d)%", "\u00a0%", re.sub(r"(?<![\w.-])-(?=\d)", "−", sentence))


def multiple(value: float | None) -> str:
    """A part of what there was: a percentage, or how many times it where it is clearly more."""
    if value is None or not math.isfinite(value) or value < MORE:
        return percent(value)
    return f"{value:.1f}\u00a0times"


def points(share: float) -> str:
    """A difference of shares in points, with its sign, which zero has none of."""
    shown = decimals(100 * share, 1, "+")
    return "0.0" if float(shown.replace("−", "-")) == 0 else shown


def percent_interval(measured: Any) -> str:
    """The interval of a measured share as `38.0–43.2`, empty without one."""
    bounds = bounds_of(measured)
    if bounds is None:
        return ""
    between = " to " if min(bounds) < 0 else "–"
    return between.join(decimals(100 * bound, 1) for bound in bounds)


def as_shown(value: float, share: bool = False) -> float:
    """A number, or a share with one decimal of a percent, as it is read: differences add up."""
    if share:
        return round(100 * value, 1) / 100
    return float(short(value).replace(",", ""))


def interval_note(measured: Any) -> str:
    """The interval of a measured share, said to be one; empty without one."""
    shown = percent_interval(measured)
    return f"95\u00a0% interval {shown}\u00a0%" if shown else ""


def percent_with_interval(measured: Any) -> str:
    """A measured share with its interval where it has one: `41.0 % (38.0–43.2)`."""
    shown, interval = percent(number_of(measured)), percent_interval(measured)
    return f"{shown} ({interval})" if interval else shown


def with_interval(measured: Any, show: Callable[[float], str]) -> str:
    """A measured value with its interval where it has one, each number as `show` has it."""
    value, ends = number_of(measured), bounds_of(measured)
    if value is None:
        return NO_VALUE
    return show(value) if ends is None else f"{show(value)} ({show(ends[0])} to {show(ends[1])})"


def short(value: Any) -> str:
    """A number in three figures, without an exponent where it can be avoided."""
    number = number_of(value)
    if number is None:
        return NO_VALUE
    if number == 0:
        return "0"
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    if abs(number) < 0.001:
        return f"{number:.1e}"
    digits = max(0, 2 - math.floor(math.log10(abs(number))))
    return f"{number:.{digits}f}"


def ranges(numbers: list[int]) -> str:
    """Whole numbers as runs: [2, 3, 4, 7] is `2–4, 7`."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in runs)
