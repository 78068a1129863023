"""From a log to a better agent: measure, decide, train, compare, promote. Each step is an `aajr` command or one file."""
