"""What the shrinking of a config by field names cannot know, family by family."""

OVERRIDES: dict[str, dict] = {
    "cohere2": {"logit_scale": 1.0},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
}

NOT_BUILDABLE: dict[str, str] = {}
