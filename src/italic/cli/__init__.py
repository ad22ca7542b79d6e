"""The command line. `main.py` declares the commands; each imports what it runs when it runs."""
