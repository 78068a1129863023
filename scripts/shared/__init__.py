"""What several studies share: commands that they run in new processes, and tables of runs."""
