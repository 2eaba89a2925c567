"""Stage 3, the student: classifies intents from cached acoustic features alone."""
