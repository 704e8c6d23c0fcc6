"""Preferences of provider and user: what they are, and who wins where they disagree."""
