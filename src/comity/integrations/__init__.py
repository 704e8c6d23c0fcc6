"""Comity inside the tools that teams have already, each behind an extra of its own."""
