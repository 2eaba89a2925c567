"""Stage 2: a BERT fine-tuned on the train texts, and its sentence embeddings."""
