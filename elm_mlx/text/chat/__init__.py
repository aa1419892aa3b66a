"""From messages to a prompt, by the template that a model brings; nothing in that template is trusted."""
