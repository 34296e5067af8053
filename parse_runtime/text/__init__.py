"""Tokenizer, chat template and streaming text."""
