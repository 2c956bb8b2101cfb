"""Tokens that try to be something else than text."""

from __future__ import annotations

RLO = "\u202e"
HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    f"{RLO}evil\u2066",
    "<!--",
    "]]>&amp;&lt;",
    "'\"`${document.title='owned'}\\",
    "x" * 10_000,
    "\u2028\u2029\x00\x1b[31m",
    "\ud83d",
    "",
    "   ",
    "\n\n",
    "\t",
    "\u0301e",
    "👩\u200d👩",
    "\u200d",
    "日本\u3000語",
    "עברית",
)
