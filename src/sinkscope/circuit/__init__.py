"""How the sink of position zero is built: recognition, amplification, induction."""
