"""What held-out pairs say of a model: does it find the chosen answer the likelier one?

Unlike the rewards that TRL logs, which are measured against the model that DPO starts from and
are therefore zero before the first step, the margin here is that of the model itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from comity.errors import TrainingError
from comity.training.folder import Look


def look_at_pairs(trainer: Any) -> Look:
    """Margin and accuracy of the trainer's held-out pairs, shared out among its processes.

    `trainer` is a `DPOTrainer` whose rows are tokenized: `prompt_ids`, `chosen_ids`,
    `rejected_ids`. Answers are cut at its `max_length`. Raises `TrainingError` where the margin
    is no number.
    """
    from accelerate.utils import gather_object  # type: ignore[import-untyped]

    rank, processes = trainer.accelerator.process_index, trainer.accelerator.num_processes
    mine = range(rank, len(trainer.eval_dataset), processes)
    margins = _margins(trainer, (trainer.eval_dataset[place] for place in mine))
    gathered = gather_object(margins) if processes > 1 else margins
    mean = sum(gathered) / len(gathered)
    if mean != mean:
        raise TrainingError("the model's likelihoods are no numbers: lower --learning-rate")
    return Look(
        rows=len(gathered),
        margin=mean,
        accuracy=sum(margin > 0 for margin in gathered) / len(gathered),
    )


def _margins(trainer: Any, rows: Iterable[Mapping[str, list[int]]]) -> list[float]:
    model = trainer.accelerator.unwrap_model(trainer.model)
    longest, training = trainer.args.max_length, model.training
    model.eval()
    try:
        with trainer.accelerator.autocast():
            return [
                log_likelihood(model, row["prompt_ids"], row["chosen_ids"], longest)
                - log_likelihood(model, row["prompt_ids"], row["rejected_ids"], longest)
                for row in rows
            ]
    finally:
        model.train(training)


def log_likelihood(model: Any, prompt: list[int], answer: list[int], longest: int) -> float:
    """Natural log-probability of the answer's tokens after the prompt's, cut at `longest`."""
    import torch

    tokens = torch.tensor([(prompt + answer)[:longest]], device=model.device)
    answered = tokens[0, len(prompt) :]
    with torch.no_grad():
        # Only the places whose next token belongs to the answer: a vocabulary is wide.
        logits = model(input_ids=tokens, logits_to_keep=len(answered) + 1).logits[0, :-1]
        chosen = logits.float().log_softmax(-1).gather(-1, answered[:, None])
    return float(chosen.sum())
