"""The simple rows that every table needs."""
