"""What is looked at: loading (safe by default), anatomy of a decoder, prompts and BOS policy."""
