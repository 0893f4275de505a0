"""Sizes in bytes as text for people."""


def human_size(count: int) -> str:
    """Bytes as Docker prints them, in powers of 1000: 4.26 GB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004  (the step from one unit to the next)
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
