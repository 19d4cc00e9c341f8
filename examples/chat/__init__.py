"""Three owners fine-tune a small language model on their own conversations: ``make demo-text``."""
