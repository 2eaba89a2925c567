"""The report's templates: `page.html`, `comparison.html` and `results.md`.

In HTML every value is escaped; in Markdown those that a template passes through `md`
or `code`. Characters that would reverse the text around them are shown by their number.
"""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from stages.core import markdown as text
from stages.core.labels import SEPARATOR
from stages.core.text import name_some
from stages.report import markdown
from stages.report.corpus_table import TABLE1_ROWS
from stages.report.intervals import INTERVAL
from stages.report.published import CORPORA, TABLE1, WORD_ERROR_RATE
from stages.report.systems import SELECTIONS, title_of

# Embeddings, overrides and isolates; Arabic and Hebrew need none of them.
_DIRECTIONS = {
    number: f"[U+{number:04X}]"
    for number in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def render(template: str, **values: Any) -> str:
    """A file of `templates/` with its values filled in."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("stages.report"),
        autoescape=select_autoescape(["html"], default=False),
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": text.code,
        "count": markdown.format_count,
        "gain": markdown.format_gain,
        "interval": markdown.format_interval,
        "label": _label,
        "md": text.escape,
        "name_some": name_some,
        "p": markdown.format_p,
        "percent": markdown.format_percent,
        "spread": markdown.format_spread,
        "title": title_of,
    }
    environment.globals |= {
        "interval": INTERVAL,
        "corpora": CORPORA,
        "paper_table1": TABLE1,
        "paper_word_error_rate": WORD_ERROR_RATE,
        "table1_rows": TABLE1_ROWS,
        "selections": SELECTIONS,
    }
    return environment


def _finalize(value: Any) -> Any:
    """What is shown of a value."""
    return value.translate(_DIRECTIONS) if isinstance(value, str) else value


def _label(intent: str) -> str:
    """An intent, its slots apart."""
    return intent.replace(SEPARATOR, " · ")
