from typing import Any

class NVMLError(Exception):
    value: int

def __getattr__(name: str) -> Any: ...
