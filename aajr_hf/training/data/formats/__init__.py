"""Rows as other tools write them, converted to TRL's formats: a file for each format, and the table of all."""
