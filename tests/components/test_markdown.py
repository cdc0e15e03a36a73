"""Texts that others wrote, in Markdown."""

import pytest

from components.markdown import escape_markdown
from components.run_summary.summary import read_artifacts, summarize
from trm.storage import s3
from trm.utils.output import printable_lines


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("train.lr 0.1 → 0.2", "train.lr 0.1 → 0.2"),
        ("mean_halt_step", "mean_halt_step"),
        ("__a__ *b* `c`", r"\_\_a\_\_ \*b\* \`c\`"),
        ("<img src=x>|[a](b)\n# c", r"\<img src=x\>\|\[a\](b) # c"),
        ("\x1b[31mred", r" \[31mred"),
    ],
)
def test_text_is_displayed_literally(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped


def test_printable_text_keeps_letters_tabs_and_lines() -> None:
    assert printable_lines("é 漢字 ✓\ta\nb") == "é 漢字 ✓\ta\nb"
    assert printable_lines("a\rb\x00\x9b\u202e\u200b") == "a b    "


def test_summary_of_a_run_displays_metrics_literally(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = {"a|b": "<script>", "exact": 0.5}
    monkeypatch.setattr(s3, "read_manifest", lambda uri: {"key": "k", "facts": {"metrics": metrics}})
    monkeypatch.setattr(s3, "get_json", lambda uri: {"seconds": "1 | <b>"})
    status = {"state": "FAILED", "error": {"message": "<b>no</b>"}}
    text = summarize(status, read_artifacts("s3://bucket", ["train=k"]))
    assert r"| a\|b | \<script\> |" in text
    assert "| exact | 0.5 |" in text
    assert not {"<b>", "<script>"} & set(text.replace("\\<", "").split())
    assert r"| 1 \| \<b\> |" in text
