"""A million rules: search, import, start and change, beside others. See `__main__`."""
