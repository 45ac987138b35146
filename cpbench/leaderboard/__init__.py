"""All runs in tables, by what can be compared."""
