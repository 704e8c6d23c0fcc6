"""Rules by the title of their document, without reading them."""

from __future__ import annotations

from typing import NamedTuple


class TitledRow(NamedTuple):
    """A rule version of a document."""

    row: int
    """Position in the book."""
    article: str
    """Name of the article; empty for a document that has none."""


# as in the index
_TITLE = "iif(json_valid(rule.record), ifnull(rule.record ->> '$.title', ''), '')"
_ARTICLE = "iif(json_valid(rule.record), ifnull(rule.record ->> '$.article', ''), '')"
_FOUND = f"SELECT rule.row AS row, {_ARTICLE} FROM json_each(?2) AS wanted CROSS JOIN rule"

TITLED = f"""
{_FOUND} WHERE rule.tenant = ?1 AND {_TITLE} = wanted.value
UNION
{_FOUND} WHERE rule.tenant = ?1 AND {_TITLE} > wanted.value || ' > '
    AND {_TITLE} < wanted.value || ' >!'
ORDER BY row
"""
"""Query with a tenant and a JSON list of titles; chapters follow a title as `TITLE > CHAPTER`.

The titles are gone through one by one (CROSS JOIN), each by the index `rule_by_title`.
"""
