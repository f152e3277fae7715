"""Is there a sink: sink rate, received attention, nulls, massive activations, values, QK split."""
