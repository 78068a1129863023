"""How agents withstand an adversary: measured, compared, reported."""
