"""Training of policies: supervised fine-tuning and preference alignment. No other folder imports Lightning."""
