"""Markdown of texts that others wrote."""

import re

from trm.utils.output import printable_lines

SPECIAL = re.compile(r"[\\|<>*`\[\]]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
"""Characters that format text. Underscores inside a word do not."""


def escape_markdown(text: str) -> str:
    """Return `text` for a line or a table cell of Markdown, where it is displayed literally."""
    return SPECIAL.sub(lambda match: f"\\{match[0]}", printable_lines(text)).replace("\n", " ")
