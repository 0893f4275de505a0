"""The formats in which mirrors publish the state of their syncs."""

from typing import Literal

FeedFormat = Literal["tunasync", "mirrorz"]
