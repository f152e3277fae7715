"""Tasks that do not depend on each other: in this process, in local processes, or on Ray."""
