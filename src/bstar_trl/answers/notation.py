r"""The spelling of answers: one form for what Unicode, LaTeX and Markdown can write in several ways.

`plain` maps characters one by one and may be applied to a whole response. `clean` also rewrites notation and is meant
for a single answer. Every pattern takes linear time, for any text.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from .repeating import without_repeating

SHOWN_LENGTH = 60  # characters
CACHED_LENGTH = 300  # characters: longer texts are rarely cleaned twice

_MINUS = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63"
_BLANKS = "\0\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\ufeff"
_DIGITS = (0x660, 0x6F0, 0x966)  # the zeros of Arabic, Persian and Devanagari
_PLAIN = str.maketrans(
    {
        **{chr(code): unicodedata.normalize("NFKC", chr(code)) for code in range(0x1D400, 0x1D800)},
        **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full width
        **{chr(zero + digit): str(digit) for zero in _DIGITS for digit in range(10)},
        **dict.fromkeys(_MINUS, "-"),
        **dict.fromkeys(_BLANKS, " "),
        **dict.fromkeys(_INVISIBLE, ""),
        **dict.fromkeys("\u2018\u2019\u2032", "'"),
        **dict.fromkeys("\u201c\u201d", '"'),
        "\u3002": ". ", "\uff61": ". ", "\u3001": ", ", "\u2044": "/", "\u2215": "/", "\u2217": "*",
    }
)  # fmt: skip
_GROUP_BLANK = re.compile(r"(?<=[0-9])[\u00a0\u2007\u2008\u2009\u202f](?=[0-9]{3}(?![0-9]))")

_SUPERSCRIPTS = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207d\u207e\u207f\u2071",
    "0123456789+-()ni",
)
_SUBSCRIPTS = str.maketrans({chr(0x2080 + index): item for index, item in enumerate("0123456789+-=()")})
_RAISED = "[\u00b2\u00b3\u00b9\u2070\u2071\u2074-\u207b\u207d-\u207f]"
_LOWERED = "[\u2080-\u208e]"
_SMALL_FRACTION = re.compile(f"({_RAISED}{{1,9}})[/\u2044]({_LOWERED}{{1,9}})")
_SUPERSCRIPT = re.compile(f"{_RAISED}+")
_SUBSCRIPT = re.compile(f"{_LOWERED}+")
_GREEK = re.compile("(?<![\u0370-\u03ff])[\u0391-\u03c9]{1,2}(?![\u0370-\u03ff])")  # longer: a word
_SYMBOLS = str.maketrans(
    {
        "\u00d7": "\\times ", "\u00b7": "\\cdot ", "\u22c5": "\\cdot ", "\u00f7": "/", "\u00b1": "\\pm ",
        "\u221e": "\\infty ", "\u222a": "\\cup ", "\u2229": "\\cap ", "\u2208": "\\in ", "\u2205": "\\emptyset ",
        "\u2264": "\\le ", "\u2a7d": "\\le ", "\u2265": "\\ge ", "\u2a7e": "\\ge ", "\u2260": "\\ne ",
        "\u2248": "\\approx ", "\u2228": " or ", "\u00b0": "^\\circ ", "\u211d": "\\mathbb{R}",
        "\u2124": "\\mathbb{Z}",
        "\u2115": "\\mathbb{N}", "\u211a": "\\mathbb{Q}", "\u2102": "\\mathbb{C}", "\u230a": "\\lfloor ",
        "\u230b": "\\rfloor ", "\u2308": "\\lceil ", "\u2309": "\\rceil ", "\u2220": "\\angle ", "\u2026": "...",
        "\u03d1": "\u03b8", "\u03d5": "\u03c6", "\u03f5": "\u03b5", "\u2126": "\u03a9",
        **{
            chr(code): "\\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", chr(code)).split("\u2044"))
            for code in (0xBC, 0xBD, 0xBE, *range(0x2150, 0x215F), 0x2189)
        },
    }
)  # fmt: skip

_FUNCTION = "arc(?:sin|cos|tan)|(?:sin|cos|tan)h?|cot|sec|csc|exp|ln|log"
_TRIGONOMETRIC = r"(\\(?:sin|cos|tan|cot|sec|csc)(?:\s?\^\s?\{?[0-9]\}?)?)"
_ANGLE = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s?\^\s?\{?\s?\\circ(?![a-zA-Z])(?:\s?\})?"
# What a text must contain, a pattern, and its replacement: most texts contain few of these marks.
_REWRITES = [
    (mark, re.compile(pattern), replacement)
    for mark, pattern, replacement in (
        # asterisks: emphasis, or a power
        ("**", r"(?<![\w)}\]*])\*\*(?![\s*])([^*\n]{1,200})(?<!\s)\*\*(?![\w(*])", r"\1"),
        ("**", r"(?<=[\w)}\]])\s?\*\*\s?(?=-?[0-9]|[a-zA-Z](?![a-zA-Z])|[({\\])", "^"),
        # blanks and layout
        ("", r"(?<=[0-9])(?:\\[,;: ]|~|\\thinspace\s?)(?=[0-9]{3}(?![0-9]))", ""),
        ("\\!", r"(?<!\\)\\!", ""),
        ("{,}", r"\{,\}", ""),
        ("\\", r"\\(?:(?:display|text|script)style|limits|mathstrut|underline|uline|emph|boldsymbol|bm|ensuremath"
               r"|[lL]arge|LARGE|[hH]uge|small|normalsize|bfseries|bf|rm|it)(?![a-zA-Z])", ""),
        ("color", r"\\(?:text)?color\s?\{[^{}]{0,40}\}", ""),
        ("", r"(?<!\\)\\[,;: ]|\\(?:q?quad|thinspace)(?![a-zA-Z])|~", " "),
        ("\\", r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\.?", ""),
        ("", r"\\?[$\u00a2\u00a3\u00a5\u20a0-\u20cf]", ""),
        ("\\", r"(?<!\\)\\[()\[\]]", ""),
        ("%", r"(?<!\\)\\%", "%"),
        # several names for one thing
        ("\\", r"\\(?:[dtcsx]|nice)frac(?![a-zA-Z])", r"\\frac"),
        ("\\", r"\\varnothing(?![a-zA-Z])|\\\{\s?\\\}", r"\\emptyset "),
        ("\\", r"\\(le|ge|ne)q?(?:slant)?(?![a-zA-Z])", r"\\\1 "),
        ("=", r"<=", r"\\le "),
        ("=", r">=", r"\\ge "),
        ("=", r"!=", r"\\ne "),
        ("\\lt", r"\\lt(?![a-zA-Z])", "<"),
        ("\\gt", r"\\gt(?![a-zA-Z])", ">"),
        ("\\var", r"\\var(phi|epsilon|theta|rho|sigma|kappa|pi)(?![a-zA-Z])", r"\\\1"),
        # arguments without braces
        ("\\over", r"\{([^{}]{1,60})\\over(?![a-zA-Z])([^{}]{1,60})\}", r"\\frac{\1}{\2}"),
        ("\\frac", r"\\frac\s?([0-9])\s?([0-9])(?![0-9])", r"\\frac{\1}{\2}"),
        ("\\frac", r"\\frac\s?([0-9])\s?\{", r"\\frac{\1}{"),
        ("\\frac", r"\\frac\s?(\{[^{}]{0,200}\})\s?([0-9])(?![0-9])", r"\\frac\1{\2}"),
        ("", r"\u221b|(?<![\\a-zA-Z])cbrt(?=\s?[({])", r"\\sqrt[3]"),
        ("\u221c", "\u221c", r"\\sqrt[4]"),
        ("", r"\u221a|(?<![\\a-zA-Z])sqrt(?=\s?[({0-9])", r"\\sqrt"),
        ("\\sqrt", r"\\sqrt(\[[0-9a-z]\])?\s?\(([^()]{0,200})\)", r"\\sqrt\1{\2}"),
        ("\\sqrt", r"\\sqrt(\[[0-9a-z]\])?\s?([0-9]{1,200}|[a-zA-Z](?![a-zA-Z]))", r"\\sqrt\1{\2}"),
        ("^", r"\^\s?(-[0-9]{1,200}|[0-9]{2,200})", r"^{\1}"),
        ("^{", r"\^\{\s?(\w)\s?\}(?!\s?\w)", r"^\1"),
        # names without a backslash, angles in degrees
        ("pi", r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
        ("a", r"(?<![\\a-zA-Z])a(sin|cos|tan)(?=\s?\()", r"\\arc\1"),
        ("", rf"(?<![\\a-zA-Z])({_FUNCTION})(?=\s?[(\\^_{{0-9]|\s[a-zA-Z](?![a-zA-Z]))", r"\\\1 "),
        ("\\circ", rf"{_TRIGONOMETRIC}\s?(?:\(\s?{_ANGLE}\s?\)|\{{\s?{_ANGLE}\s?\}}|{_ANGLE})",
         lambda found: rf"{found[1]}(\frac{{{found[2] or found[3] or found[4]}\pi}}{{180}})"),
        ("", r"\s+", " "),
    )
]  # fmt: skip
_WRAPPER = re.compile(
    r"\\(?:text(?:rm|bf|it|sf|tt|normal)?|math(?:rm|bf|it|sf)|[mhf]box|operatorname|unit)\s?\{([^{}]{0,500})\}"
)
_NO_SOLUTION = re.compile(
    r"(?:\\(?:text|mathrm)\s?\{\s?)?(?:there (?:is|are) )?(?:the )?(?:no (?:real )?solutions?|empty set)\s?\}?",
    re.IGNORECASE,
)
_OUTER_BRACES = re.compile(r"\{((?:[^{}]|\{[^{}]*+\})*+)\}")


def plain(text: str) -> str:
    """The text with ASCII for full-width, mathematical and other variants of letters, digits, dashes and blanks."""
    return text if text.isascii() else _GROUP_BLANK.sub("", text).translate(_PLAIN)


def clean(text: str) -> str:
    """An answer with one spelling for everything that LaTeX, Unicode and Markdown can spell in several ways."""
    return _clean_once(text) if len(text) <= CACHED_LENGTH else _clean(text)


def _clean(text: str) -> str:
    text = without_repeating(text.replace("\0", " ") if text.isascii() else _latex_for_symbols(text))
    for mark, pattern, replacement in _REWRITES:
        if mark in text:
            text = pattern.sub(replacement, text)
    text = text.strip(' *_`"')
    text = text.rstrip(" .,;\\")
    if braces := _OUTER_BRACES.fullmatch(text):
        text = braces[1].strip()
    return r"\emptyset" if _NO_SOLUTION.fullmatch(text) else text


_clean_once = lru_cache(maxsize=1 << 14)(_clean)


def normal_form(text: str) -> str:
    """A form that two answers share only if they differ in nothing but spelling and blanks."""
    text = re.sub(r" ?([^A-Za-z0-9\s]) ?", r"\1", unwrapped(clean(text), "").strip())
    return text[1] if len(text) == 3 and text[0] == "(" and text[2] == ")" else text


def unwrapped(text: str, blank: str = " ") -> str:
    r"""The text without `\text{...}` and its kin around their contents, which get `blank` on both sides."""
    for _ in range(3):
        if "\\" not in text:
            break
        text = _WRAPPER.sub(rf"{blank}\1{blank}", text)
    return text


def outside_of_text(text: str) -> str:
    r"""What remains of an answer without `\text{...}` and its contents."""
    return _WRAPPER.sub("", text)


def shown(text: str) -> str:
    """The text for a reason: at most 60 characters, one line, valid UTF-8, since reasons go to logs and files."""
    text = " ".join(text.encode("utf-8", "replace").decode().replace("\0", " ").split())
    return text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 3] + "..."


def _latex_for_symbols(text: str) -> str:
    text = _SMALL_FRACTION.sub(
        lambda found: f"\\frac{{{found[1].translate(_SUPERSCRIPTS)}}}{{{found[2].translate(_SUBSCRIPTS)}}}", text
    )
    text = _SUPERSCRIPT.sub(lambda found: f"^{{{found[0].translate(_SUPERSCRIPTS)}}}", text)
    text = _SUBSCRIPT.sub(lambda found: f"_{{{found[0].translate(_SUBSCRIPTS)}}}", text)
    return _GREEK.sub(_latex_for_greek, plain(text.translate(_SYMBOLS)))


def _latex_for_greek(found: re.Match[str]) -> str:
    names = [unicodedata.name(letter, "").split() for letter in found[0]]
    if any(len(name) != 4 for name in names):  # with an accent: a word
        return found[0]
    letters = [name[3].replace("LAMDA", "LAMBDA") for name in names]
    return "".join(
        f"\\{letter.capitalize() if size == 'CAPITAL' else letter.lower()} "
        for (_, size, *_), letter in zip(names, letters, strict=True)
    )
