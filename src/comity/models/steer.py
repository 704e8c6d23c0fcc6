"""Steering at the logits: the next token is chosen by several prompts of one model."""

from __future__ import annotations

from comity.models.logits import LogitModel, NextTokens, TokenSession

__all__ = ["LogitModel", "NextTokens", "TokenSession"]
