"""What a draft, a question, a method, a model and a reward are. Needs NumPy alone; all else needs this."""
