"""Laws of which one example takes 30 ms or more, such as a plan with every file of its seats.

The tests of every commit try fewer examples of them; `make test-long PART=fuzz` tries as many as of the others.
"""

from hypothesis import settings

costly = settings(max_examples=10) if settings.get_current_profile_name() == "commit" else settings()
