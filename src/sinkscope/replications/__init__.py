"""Published experiments as replications that run on any model.

from sinkscope import replications

result = replications.run("ran-milo-2026", subject)
print(result.table())
"""

from sinkscope.replications.run import REPLICATIONS, ReplicationSettings, run

__all__ = ["REPLICATIONS", "ReplicationSettings", "run"]
