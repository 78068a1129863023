"""Results as numbers, tables, plots and pages. Measures nothing."""
