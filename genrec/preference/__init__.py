"""Preference alignment: losses, negative samplers, candidate filters, rewards and item vectors."""
