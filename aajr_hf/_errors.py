"""Errors as one line."""


def one_line(error: BaseException) -> str:
    """An error's message without its line breaks, or its name if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its name if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
