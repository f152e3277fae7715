"""When the circuit formed, where it concentrated, whether it settled: checkpoint by checkpoint."""
