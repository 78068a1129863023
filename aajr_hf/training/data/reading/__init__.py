"""Files of rows, read one row at a time, each with its place or its error."""
