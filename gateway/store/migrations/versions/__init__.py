"""One module a change, named for its revision; what one has done stays as it was written."""
