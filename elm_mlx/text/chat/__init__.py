"""Messages to a prompt, by the template that a model brings and with nothing of it trusted."""
