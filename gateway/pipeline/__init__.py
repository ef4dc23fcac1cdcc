"""A question becomes a survey: the stages, over the ports that whoever runs them provides."""
