"""A file of requests to a file of answers, a JSON object a line; the work behind `elm-mlx batch`. docs/batch.md says
what the lines may hold."""
