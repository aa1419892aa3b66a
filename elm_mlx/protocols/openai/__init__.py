"""OpenAI's API: chat completions (`chat`) and completions (`completions`), each a Dialect; and the list of models.

The forms are those of openai/openai-openapi, openapi.json 2.3.0.
"""
