"""Names of models, the Hugging Face hub, and the models that are kept on this machine."""
