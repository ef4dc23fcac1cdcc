"""The tasks done by language models: prompts, the checks of what comes back, repairs, and stand-ins."""
