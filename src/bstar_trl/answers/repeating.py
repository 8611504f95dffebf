r"""Repeating decimals in their many spellings, rewritten as fractions.

The period stands under a bar (`0.\overline{3}`), under dots (`0.\dot{1}4\dot{2}`), in brackets (`0.1(6)`), or is seen
at least twice before an ellipsis (`0.333...`, `0.1212\ldots`).
"""

from __future__ import annotations

import re
from fractions import Fraction

_WHOLE = r"(?<![\w.,])(?P<whole>[0-9][0-9,]{0,30})?\.(?P<fixed>[0-9]{0,60})"
_FORMS = [
    re.compile(_WHOLE + period)
    for period in (
        r"\\(?:overline|overbar|bar)\s?(?:\{\s?(?P<period>[0-9]{1,60})\s?\}|(?P<digit>[0-9]))(?:\.\.\.|\\[lc]?dots)?",
        r"\((?P<period>[0-9]{1,60})\)",
        r"\\dot\s?\{?(?P<period>[0-9])\}?(?:(?P<inner>[0-9]{0,60})\\dot\s?\{?(?P<last>[0-9])\}?)?",
        r"(?P<period>(?:[0-9][\u0304\u0305])+)",
        r"(?P<period>[0-9]\u0307(?:[0-9]{0,60}[0-9]\u0307)?)",
    )
]
_ELLIPSIS = re.compile(_WHOLE + r"(?:\.\.\.|\\[lc]?dots(?![a-zA-Z]))")
_TWICE = re.compile(r"(?P<fixed>[0-9]*?)(?P<period>[0-9]{1,30}?)(?P=period)+")


def without_repeating(text: str) -> str:
    r"""The text with each repeating decimal as `\frac{p}{q}`; other decimals lose their ellipsis."""
    if any(mark in text for mark in ("\\", "(", "\u0304", "\u0305", "\u0307")):
        for form in _FORMS:
            text = form.sub(_fraction, text)
    return _ELLIPSIS.sub(_continued, text) if ".." in text or "dots" in text else text


def _fraction(match: re.Match[str]) -> str:
    parts = match.groupdict()
    period = (parts["period"] or parts.get("digit") or "") + (parts.get("inner") or "") + (parts.get("last") or "")
    return _latex(parts["whole"], parts["fixed"], re.sub(r"[^0-9]", "", period))


def _continued(match: re.Match[str]) -> str:
    seen = _TWICE.fullmatch(match["fixed"])
    if seen is None:
        return f"{match['whole'] or 0}.{match['fixed']} "
    return _latex(match["whole"], seen["fixed"], seen["period"])


def _latex(whole: str | None, fixed: str, period: str) -> str:
    shift = 10 ** len(fixed)
    value = int((whole or "0").replace(",", "")) + Fraction(int(fixed or 0), shift)
    value += Fraction(int(period), shift * (10 ** len(period) - 1))
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
