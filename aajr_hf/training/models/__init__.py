"""Models and tokenizers: loaded, built and adapted."""
