"""A first label for every feature, from the tokens that it stands on and those that it promotes and suppresses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from featcircuits.dossiers.records import TokenEffect, TokenShare
from featcircuits.inputs.names import LONGEST

NEVER = "never active on the text"
SHOWN = 3
LEAST_SHARE = 0.05
"""Of a feature's activation, that a token must hold to be named."""
LEAST_LIFT = 3.0
"""How many times its share of the text that must be: a full stop is often among the tokens of any feature."""
MANY = 0.25
"""Where the tokens to name hold less than this share together, the feature is active on many words."""
LEAST_BEFORE = 0.6
"""Of the strongest contexts, that must have one token before theirs for it to be named."""
LEAST_EFFECT = 0.5
"""What the feature's mean activation must add directly to a logit for its effects to be named."""
BESIDE = 0.5
"""Of the strongest direct effect, that others must have to be named with it."""


def default_label(
    tokens: Sequence[TokenShare],
    strongest: Sequence[tuple[str | None, str]],
    promoted: Sequence[TokenEffect],
    suppressed: Sequence[TokenEffect],
    mean: float | None,
) -> str:
    """Such as `boy / actor ... | after The -> has / is / was, not have / are`; at most `LONGEST` characters.

    First what it is active on, with dots where that is many other tokens too; then what mostly comes before; then
    what it makes the model say next, and keeps it from saying.

    `strongest`: of the strongest contexts, the token before theirs (None at the start of a document) and their own.
    `mean`: of the feature where active, which direct effects are multiplied by.
    """
    if not tokens:
        return NEVER
    parts = [_stands_on(tokens, [token for _, token in strongest]), _after([token for token, _ in strongest])]
    label = " ".join([*filter(None, parts), *_moves(promoted, suppressed, mean or 0.0)])
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 3].rstrip()}..."


def _stands_on(tokens: Sequence[TokenShare], strongest: Sequence[str]) -> str:
    """The tokens with most of the activation, or of the strongest contexts where it is spread over many."""
    named = [one for one in tokens if one.share >= max(LEAST_SHARE, LEAST_LIFT * one.text_share)][:SHOWN]
    if sum(one.share for one in named) >= MANY:
        return _listed(one.token for one in named)
    return f"{_listed(list(dict.fromkeys(strongest))[:SHOWN])} ..."


def _after(before: Sequence[str | None]) -> str:
    """The token that mostly comes before, if there is one."""
    common = Counter(token for token in before if token is not None).most_common(1)
    return f"| after {_shown(common[0][0])}" if common and common[0][1] >= LEAST_BEFORE * len(before) else ""


def _moves(promoted: Sequence[TokenEffect], suppressed: Sequence[TokenEffect], mean: float) -> list[str]:
    """What it says next, and what it keeps from being said, where that stands out."""
    strongest = max((abs(one.logit) for one in (*promoted[:1], *suppressed[:1])), default=0.0)
    if strongest * mean < LEAST_EFFECT:
        return []
    up, down = ([one.token for one in side[:SHOWN] if abs(one.logit) >= BESIDE * strongest]
                for side in (promoted, suppressed))  # fmt: skip
    says, keeps = f"-> {_listed(up)}" if up else "", f"not {_listed(down)}" if down else ""
    return [f"{says}, {keeps}" if says and keeps else says or f"-> {keeps}"]


def _listed(tokens: Iterable[str]) -> str:
    return " / ".join(map(_shown, tokens))


def _shown(token: str, most: int = 16) -> str:
    text = token.strip() or repr(token)
    return text if len(text) <= most else f"{text[: most - 3]}..."
