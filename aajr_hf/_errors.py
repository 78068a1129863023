"""Errors as one line."""


def one_line(error: BaseException) -> str:
    """An error's message without its line breaks, or its name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__
