"""Baseline-1 on recognised text: a recogniser, then the fine-tuned BERT."""
