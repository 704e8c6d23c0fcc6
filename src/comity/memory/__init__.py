"""The external memory: book of record, index, scope and places."""
