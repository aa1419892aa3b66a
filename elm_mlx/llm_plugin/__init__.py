"""A plugin of `llm`, Simon Willison's command and library: the models of this machine and the demo, without a server.

A model is called elm-mlx/NAME. `llm` imports the module `hooks` by its entry point, and nobody else imports this room:
it alone needs `llm`.
"""
