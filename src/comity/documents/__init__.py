"""Documents: from files to rules."""
