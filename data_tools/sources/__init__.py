"""Readers of corpora: each yields samples, and all that differs between corpora's layouts stays in here."""
