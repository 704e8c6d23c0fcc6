"""Comity: any chatbot in line with the norms that hold here, now and for this person."""

from comity.alignment.aligner import Aligner, Options
from comity.errors import ComityError
from comity.memory.memory import Memory
from comity.records import Answer, Decision, Message, Rule, Ruling, Scope

__all__ = [
    "Aligner",
    "Answer",
    "ComityError",
    "Decision",
    "Memory",
    "Message",
    "Options",
    "Rule",
    "Ruling",
    "Scope",
]
