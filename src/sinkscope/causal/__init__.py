"""Is the circuit real: edits, controls, experiments, verdict."""
