"""``microsnoop joint``: transcripts and images of the same cells, seen by several methods, scored and reported."""
