"""The families of causal tests: necessity, sufficiency, identity, mediation, faithfulness."""
