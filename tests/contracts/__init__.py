"""What every implementation of a protocol does: tests to import."""
