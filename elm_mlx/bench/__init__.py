"""The measuring behind `elm-mlx bench`: every sample kept, both programs timed by one clock, the machine's facts beside
the figures. docs/benchmarks.md says what each figure is."""
