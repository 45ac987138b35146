"""A run's folder: its record, tables and pictures, read with care."""
