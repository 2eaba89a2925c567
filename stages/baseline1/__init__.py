"""Baseline-1: a recogniser's text, classified by the fine-tuned BERT."""
