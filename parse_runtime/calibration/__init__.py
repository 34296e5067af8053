"""Fitting verdicts to a pair of models: questions, labelled prefixes of drafts, a logistic fit."""
