"""How it is looked at: attention readers, taps on the residual stream, the one-token P0 stream."""
