"""Hooks of mkdocs: turn formulas into MathML while the site is built.

Browsers draw MathML by themselves. A formula therefore needs no script, no font and no other host, and it stays a
formula for screen readers and for printing.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert


FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*(?:\\\((.*?)\\\)|\\\[(.*?)\\\])\s*</\1>', re.S)


def on_page_content(page_html: str, **_: Any) -> str:
    """Return the page with the formulas that `arithmatex` marked as MathML."""
    return FORMULA.sub(_mathml, page_html)


def _mathml(match: re.Match[str]) -> str:
    is_block = match[2] is None
    formula = " ".join(html.unescape(match[3] if is_block else match[2]).split())
    if not is_block:
        return _converted(formula, "inline")
    # Formulas beside each other are apart by \qquad; as boxes of their own they wrap on a narrow screen.
    formulas = [_converted(part, "block") for part in formula.split(r"\qquad") if part.strip()]
    return f'<div class="formulas" tabindex="0">{"".join(formulas)}</div>'


def _converted(formula: str, display: str) -> str:
    mathml: str = convert(formula, display=display)
    # The bars of a norm: browsers stretch the left one alone, since the right one carries the subscript.
    for bar in ("&#x02016;", "&#x0007C;"):
        mathml = mathml.replace(f"<mo>{bar}</mo>", f'<mo stretchy="false">{bar}</mo>')
    return mathml
