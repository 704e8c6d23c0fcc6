"""Whether a model's chat template takes MetaAlign's three tiers.

System info and user info make the meta-prompt; it is put in the very words that
`preferences.meta_prompt.messages_of` gives it when the model is asked, so that a model is trained
on what it will read. MetaAlign (arXiv 2410.14184) did not publish the tokens of its template:
that the provider's tier and the user's background stand under headings of the system message,
and the user's wishes behind the question, is our own choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from comity.errors import TrainingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SYSTEM, _QUESTION = "Answer in one word.", "Is it day?"


def check_template(tokenizer: PreTrainedTokenizerBase, base: str) -> None:
    """Whether the tokenizer's chat template keeps all three tiers.

    Raises `TrainingError` for one that refuses or drops system messages: the rules could not be
    told to such a model either.
    """
    from jinja2 import TemplateError

    prompt = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _QUESTION}]
    try:
        asked = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        raise TrainingError(
            f"{base}: its chat template refuses a system message, so the model can be told "
            f"neither rules nor preferences: {error}"
        ) from error
    if _SYSTEM not in str(asked):
        raise TrainingError(
            f"{base}: its chat template leaves out the system message, so the model can be told "
            "neither rules nor preferences"
        )
