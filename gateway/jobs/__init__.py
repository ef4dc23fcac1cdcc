"""Surveys as durable jobs: who runs which, in what order, what is kept of them, and who hears of it."""
