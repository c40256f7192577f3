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
    formula = html.unescape(match[3] if is_block else match[2])
    mathml = convert(" ".join(formula.split()), display="block" if is_block else "inline")
    return f'<div class="formula" tabindex="0">{mathml}</div>' if is_block else mathml
