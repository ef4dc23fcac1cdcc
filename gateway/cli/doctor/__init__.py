"""`paperroute doctor`: looks at everything a survey needs, and says what to do about what is missing."""
