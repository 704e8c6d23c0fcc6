"""Exams: questions made from rules, put to models with and without the memory, and scored."""
