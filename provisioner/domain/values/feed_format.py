"""The formats in which mirrors publish the state of their syncs."""

from typing import Literal

# By the program that writes it: tunasync (TUNA, BFSU, NJU, HIT), Yuki (USTC), lug (SJTU), the orchestrator of ZJU.
# mirrorz is the common format that most of these mirrors publish as well.
FeedFormat = Literal["tunasync", "mirrorz", "yuki", "lug", "zju"]
