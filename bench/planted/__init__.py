"""Models and series with planted answers: runs that form, move and settle, and uses of a sink."""
