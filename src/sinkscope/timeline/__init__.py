"""When the circuit formed, where it concentrated, whether it settled: checkpoint by checkpoint.

The room and its main function share a name, so the room can be called: `sinkscope.timeline(D)` is
`sinkscope.timeline.timeline.timeline(D)`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from sinkscope.timeline.timeline import timeline

        return timeline(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
