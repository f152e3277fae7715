"""The causal tests: necessity, sufficiency, identity, mediation."""
