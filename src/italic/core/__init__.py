"""What a draft, a question, a method, a model and a reward are. Depends on NumPy alone; everything else depends on this."""
