"""Text that is as wide as it is printed, also on a terminal whose encoding lacks some of its characters."""

from collections.abc import Iterable
from itertools import accumulate

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.segment import Segment
from rich.text import Span, Text


class EncodedText(Text):
    """Text whose missing characters are escaped before it is laid out, not when it is written: an escape is wider."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[Segment]:
        """Yield the text as it will be written."""
        yield from Text.__rich_console__(encode(self, options), console, options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Measure the text as it will be written."""
        return Text.__rich_measure__(encode(self, options), console, options)


def encode(text: Text, options: ConsoleOptions) -> Text:
    """Return the text with escapes in place of characters that the encoding lacks; the same one where it has all."""
    try:
        text.plain.encode(options.encoding)
    except UnicodeEncodeError:
        return _escape(text, options.encoding)
    return text


def _escape(text: Text, encoding: str) -> Text:
    escaped = [character.encode(encoding, "backslashreplace").decode(encoding) for character in text.plain]
    places = list(accumulate(map(len, escaped), initial=0))
    spans = [Span(places[span.start], places[min(span.end, len(text))], span.style) for span in text.spans]
    changed = text.blank_copy("".join(escaped))
    changed.spans = spans
    return changed
