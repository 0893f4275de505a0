"""A line of text that a person wrote and others are shown."""


def one_line(text: str, maximum: int) -> str:
    """Return the text as one line of printable characters, at most `maximum`; it may be empty.

    Raises ValueError with a message for the user.
    """
    line = " ".join(text.split())
    if len(line) > maximum:
        raise ValueError(f"has {len(line)} characters; the maximum is {maximum}")
    return printable(line)


def printable(text: str) -> str:
    """Return the text. Raises ValueError where it has a character that is not printable."""
    if bad := next((c for c in text if not c.isprintable()), None):
        raise ValueError(f"contains U+{ord(bad):04X}, which is not printable")
    return text
