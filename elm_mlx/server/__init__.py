"""The HTTP server: models on this machine for clients of OpenAI's and Anthropic's APIs, and a page to chat in."""
