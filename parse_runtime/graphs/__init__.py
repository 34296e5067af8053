"""The passes of an open bundle, as the models that the engine asks for tokens and verdicts."""
