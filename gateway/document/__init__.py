"""What a survey looks like: its parts put together, its links, its footer, its map, its exports. Pure functions."""
