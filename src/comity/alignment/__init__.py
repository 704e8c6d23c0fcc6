"""Alignment: rulings, prompts, answers and their records."""
