"""How the answers of `advise` are shown."""
